package etag

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// site is a guarded site in front of a store.
func startStore(t *testing.T, options string, docs map[string]string) (s *store, url string, client *http.Client) {
	t.Helper()
	s = newStore(docs)
	url = startCaddy(t, "etag {\n"+options+"\n}\nreverse_proxy "+s.start(t))
	return s, url, clientFor(t, "h1", nil)
}

func TestWriteWithCurrentTagPasses(t *testing.T) {
	s, url, client := startStore(t, "", map[string]string{"/a": "one"})
	tag := get(t, url+"/a").tag()
	s.seen()

	res := do(t, client, "PUT", url+"/a", "two", "If-Match", tag)
	require.Equal(t, 204, res.status)
	require.Equal(t, "GET PUT GET", s.seen())
	require.NotEqual(t, tag, res.tag())
	require.Equal(t, get(t, url+"/a").tag(), res.tag())

	res = do(t, client, "PUT", url+"/a", "three", "If-Match", tag)
	require.Equal(t, 412, res.status)
	require.Equal(t, 1, s.changes())
	t.Log(res.body)
}
