package etag

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHoldTimerThatComesLate, when what it was for has ended, says nothing about
// what was begun since: a write whose preconditions were looked at before its
// body, and then takes the lock.
func TestHoldTimerThatComesLate(t *testing.T) {
	h := newHandler(t, Handler{})
	r := httptest.NewRequest(http.MethodPut, "/doc", nil)
	wr := newWrite(h, httptest.NewRecorder(), r, nil, http.MethodPut)
	defer wr.release()
	wr.tenure.begin(noLock{}, "")
	late := &term{&wr.tenure, wr.tenure.term}
	wr.tenure.end()
	late.Expire()
	require.False(t, wr.tenure.isOver())

	wr.tenure.begin(noLock{}, "/doc")
	late.Expire()
	require.False(t, wr.tenure.isOver())
	require.NoError(t, wr.tenure.reading.Err())
	require.True(t, wr.tenure.holds())

	(&term{&wr.tenure, wr.tenure.term}).Expire()
	require.True(t, wr.tenure.isOver())
	require.Error(t, wr.tenure.reading.Err())
}
