package etag

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadThroughReverseProxy(t *testing.T) {
	upstream := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("hello"))
	})
	url := startCaddy(t, "etag\nreverse_proxy "+upstream)

	first := get(t, url)
	require.Equal(t, 200, first.status)
	require.Equal(t, `"2cf24dba5fb0a30e26e83b2ac5b9e29e"`, first.tag())
	require.Equal(t, "hello", first.body)

	second := get(t, url, "If-None-Match", first.tag())
	require.Equal(t, 304, second.status)
	require.Empty(t, second.body)
	require.Equal(t, first.tag(), second.tag())
}
