package etag

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestPutByAnotherNameGetsItsTag: what many frameworks take for a PUT is
// answered as one.
func TestPutByAnotherNameGetsItsTag(t *testing.T) {
	for _, write := range []struct {
		method string
		sends  fields
	}{
		{"PUT", nil},
		{"put", nil},
		{"POST", fields{"X-HTTP-Method-Override", "PUT"}},
	} {
		stored := "one"
		next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			if r.Method == http.MethodGet {
				_, err := io.WriteString(w, stored)
				return err
			}
			body, err := io.ReadAll(r.Body)
			stored = string(body)
			w.WriteHeader(http.StatusNoContent)
			return err
		})
		h := newHandler(t, Handler{})
		r := httptest.NewRequest(write.method, "/", strings.NewReader("two"))
		addFields(r.Header, append(write.sends, "If-Match", oneTag))
		rec := httptest.NewRecorder()
		require.NoError(t, h.ServeHTTP(rec, r, next))
		require.Equal(t, http.StatusNoContent, rec.Code)
		require.Equal(t, tagFor("two"), rec.Header().Get("ETag"), write)
	}
}
