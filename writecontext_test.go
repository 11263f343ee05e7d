package etag

import (
	"context"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

type contextTestKey struct{}

// TestWriteContextThatWasCanceledStaysSo: contexts that were derived from it
// wait for its end in goroutines, and ask for the reason when the write may be
// done and its client still there. The context package panics if they get none.
func TestWriteContextThatWasCanceledStaysSo(t *testing.T) {
	for range 100 {
		client, leave := context.WithCancel(t.Context())
		write := newWriteContext(client)
		derived, stop := context.WithCancel(context.WithValue(write, contextTestKey{}, "as reverse_proxy has it"))
		ended := write.Done()
		runtime.Gosched() // to the goroutine
		write.cancel()
		write.finish()
		<-ended
		require.ErrorIs(t, write.Err(), context.Canceled)

		again, stopAgain := context.WithCancel(write)
		require.NoError(t, again.Err(), "what comes after the write goes on with its client")
		leave()
		<-derived.Done()
		require.Equal(t, context.Canceled, context.Cause(derived), "and nothing that is taken for the upstream's failure")
		<-again.Done()
		stop()
		stopAgain()
	}
}

// TestWriteContextIsTheClientsWhenTheWriteIsDone, and not before.
func TestWriteContextIsTheClientsWhenTheWriteIsDone(t *testing.T) {
	client, leave := context.WithCancel(t.Context())
	write := newWriteContext(client)
	derived, stop := context.WithCancel(write)
	defer stop()
	leave()
	require.NoError(t, write.Err())
	require.NoError(t, derived.Err())
	write.finish()
	require.ErrorIs(t, write.Err(), context.Canceled)
	<-derived.Done()
}
