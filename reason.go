package etag

// reason is why a request was decided as it was: one word, which the problem
// body of a refusal, the placeholder, the metrics and the log show.
type reason string

// Why the response to a read has no tag of ours, and none of its own.
const (
	reasonStatus   reason = "status"    // match does not take its status
	reasonNoMatch  reason = "no_match"  // match does not take its header
	reasonNoStore  reason = "no_store"  // Cache-Control: no-store
	reasonStream   reason = "stream"    // its type or a field says that it streams
	reasonPartial  reason = "partial"   // it is a part of a representation
	reasonUpgrade  reason = "upgrade"   // the connection changed its protocol
	reasonTooLarge reason = "too_large" // past max_size
	reasonNoMemory reason = "no_memory" // past max_memory; also why a write was refused
	reasonTooSlow  reason = "too_slow"  // past max_delay
)

// reasonUnstable is why a tag may be in vain: the client's If-Modified-Since is
// this Last-Modified, and the body another one than its tag is of.
const reasonUnstable reason = "unstable"

// What a 304 or 412 to a read rests on.
const (
	reasonIfMatch           reason = "if_match"
	reasonIfUnmodifiedSince reason = "if_unmodified_since"
	reasonIfNoneMatch       reason = "if_none_match"
	reasonIfModifiedSince   reason = "if_modified_since"
	reasonRemembered        reason = "remembered" // downstream has not been asked
)

// Why a write was refused, or ended without an answer.
const (
	reasonStale      reason = "stale"       // the resource is in another state than the client knows
	reasonMalformed  reason = "malformed"   // a precondition has no valid tag
	reasonNoTag      reason = "no_tag"      // the resource has no tag that If-Match could name
	reasonExists     reason = "exists"      // the resource exists, and If-None-Match says that it must not
	reasonUnreadable reason = "unreadable"  // the current representation can't be read
	reasonBusy       reason = "busy"        // the lock was not free within its timeout
	reasonLockFailed reason = "lock_failed" // the lock service failed
	reasonHold       reason = "hold"        // the hold time was over
)
