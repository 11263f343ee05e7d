package etag

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyetag/caddy-etag/internal/held"
)

// This file has what the tests need to call a handler without a Caddy around
// it, and parts of it without the handler.

// newHandler provisions a handler that logs nothing.
func newHandler(tb testing.TB, config Handler) *Handler {
	tb.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	tb.Cleanup(cancel)
	h := &config
	require.NoError(tb, h.Provision(ctx))
	h.logger = zap.NewNop()
	tb.Cleanup(func() { require.NoError(tb, h.Cleanup()) })
	require.NoError(tb, h.Validate())
	return h
}

// serve sends a request to a handler with next behind it.
func serve(h *Handler, next caddyhttp.HandlerFunc, method string, fields ...string) (*httptest.ResponseRecorder, error) {
	r := httptest.NewRequest(method, "/", nil)
	addFields(r.Header, fields)
	rec := httptest.NewRecorder()
	err := h.ServeHTTP(rec, r, next)
	return rec, err
}

// tagOfBody is the tag that a handler gives a response.
func tagOfBody(t *testing.T, h *Handler, next caddyhttp.HandlerFunc) string {
	t.Helper()
	rec, err := serve(h, next, http.MethodGet)
	require.NoError(t, err)
	return rec.Header().Get("ETag")
}

// writing returns a handler that writes a body in pieces of a size.
func writing(body string, size int) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.WriteHeader(http.StatusOK)
		for piece := range slices.Chunk([]byte(body), size) {
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
		return nil
	}
}

// reading returns a handler that lets a body be read from it.
func reading(body string) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.WriteHeader(http.StatusOK)
		_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader(body))
		return err
	}
}

var errOfHandler = errors.New("what the handler ran into")

// discardWriter is a response that nobody gets.
type discardWriter struct{ header http.Header }

func (w discardWriter) Header() http.Header { return w.header }

func (w discardWriter) Write(p []byte) (int, error) { return len(p), nil }

func (w discardWriter) WriteHeader(int) {}

func addFields(header http.Header, fields []string) {
	for i := 0; i < len(fields); i += 2 {
		header.Add(fields[i], fields[i+1])
	}
}

// hold returns a body in memory.
func hold(tb testing.TB, content []byte) *held.Body {
	body := &held.Body{Budget: held.NewBudget(1 << 30)}
	tb.Cleanup(body.Release)
	for len(content) > 0 {
		n := copy(body.Room(), content)
		body.Grow(n)
		body.Fresh(0)
		content = content[n:]
	}
	return body
}

func normalizerWith(tb testing.TB, json bool, pointers []string, patterns ...string) *normalizer {
	tb.Helper()
	n, err := newNormalizer(json, pointers, patterns)
	require.NoError(tb, err)
	return n
}

// digitsOf returns the digits for a body that comes with a Content-Type.
func digitsOf(tb testing.TB, n *normalizer, contentType, content string) string {
	tb.Helper()
	body := hold(tb, []byte(content))
	header := http.Header{}
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	return n.normalize(body, n.formOf(header, body.Head()), algorithms[defaultAlgorithm], defaultLength)
}

// newBodyOf returns an empty body within a budget.
func newBodyOf(budget *held.Budget) *held.Body { return &held.Body{Budget: budget} }
