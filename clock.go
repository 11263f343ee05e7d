package etag

import "time"

// instant is a moment by two clocks, in nanoseconds: the one on the wall, which
// may be set back, and one that goes on steadily, but stands still while the
// machine sleeps.
type instant struct{ wall, steady int64 }

var processBegan = time.Now()

func now() instant {
	now := time.Now()
	return instant{now.UnixNano(), int64(now.Sub(processBegan))}
}

// since returns the time that has gone by since an earlier instant: as much as
// either clock says, so that nothing lives on because one of them is wrong.
func (i instant) since(earlier instant) time.Duration {
	return time.Duration(max(0, i.wall-earlier.wall, i.steady-earlier.steady))
}

// date returns the instant as a date for people and header fields.
func (i instant) date() time.Time { return time.Unix(0, i.wall).UTC() }
