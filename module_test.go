package etag

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

func TestModuleIsRegistered(t *testing.T) {
	info, err := caddy.GetModule("http.handlers.etag")
	require.NoError(t, err)
	require.IsType(t, new(Handler), info.New())
}

// loadHandler loads a handler from JSON, as Caddy does for a route.
func loadHandler(t *testing.T, config string) (*Handler, error) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	loaded, err := ctx.LoadModuleByID("http.handlers.etag", json.RawMessage(config))
	if err != nil {
		return nil, err
	}
	h := loaded.(*Handler)
	h.logger = zap.NewNop()
	return h, nil
}

// TestEmptyMatcherIsNone, as the zero value of each field is the default.
func TestEmptyMatcherIsNone(t *testing.T) {
	for _, config := range []string{`{"match": {}}`, `{"match": null}`, `{"match": {"status_code": null}}`} {
		h, err := loadHandler(t, config)
		require.NoError(t, err)
		require.Equal(t, []int{200}, h.Matcher.StatusCode, config)
	}
}

// TestZeroValuesAreTheDefaults so that {"handler": "etag"} is a bare etag.
func TestZeroValuesAreTheDefaults(t *testing.T) {
	bare, err := loadHandler(t, `{}`)
	require.NoError(t, err)
	zero, err := loadHandler(t, `{"strength": "", "algorithm": "", "length": 0, "version": "", "existing": "", "no_store": "", "match": null,
		"cache_control": "", "canonicalize": "", "ignore_json": [], "ignore_pattern": null, "max_size": 0, "max_memory": 0, "max_delay": 0, "oversize": "",
		"if_match": [], "require_if_match": null, "weak_if_match": "", "lock": null, "remember_forgetter": null, "lock_timeout": 0, "lock_hold": 0, "write_tag": "", "errors": ""}`)
	require.NoError(t, err)
	spelledOut, err := loadHandler(t, `{"strength": "strong", "algorithm": "sha256", "length": 32, "existing": "keep", "no_store": "skip",
		"match": {"status_code": [200]}, "max_size": 8388608, "max_memory": 268435456, "max_delay": "300ms", "oversize": "pass",
		"if_match": ["PUT", "PATCH", "DELETE"], "weak_if_match": "auto", "lock": {"module": "local"}, "lock_timeout": "10s", "lock_hold": "1m",
		"write_tag": "on", "errors": "problem"}`)
	require.NoError(t, err)
	for _, same := range []*Handler{zero, spelledOut} {
		wanted, err := json.Marshal(bare)
		require.NoError(t, err)
		got, err := json.Marshal(same)
		require.NoError(t, err)
		require.JSONEq(t, string(wanted), string(got))
	}
	require.Equal(t, tagFor("hello"), tagOfBody(t, bare, writing("hello", 5)))
}

// TestVersionMayHaveAnyPlaceholder: what its value has that a tag can't have
// is dropped at the request.
func TestVersionMayHaveAnyPlaceholder(t *testing.T) {
	for _, version := range []string{"v1", "{http.request.header.X y}", "a{b}c", "é", `\`} {
		config, err := json.Marshal(map[string]string{"version": version})
		require.NoError(t, err)
		_, err = loadHandler(t, string(config))
		require.NoError(t, err, version)
	}
}

// TestAdminAPIChangesTheHandler of a running Caddy, and refuses a change for
// the worse, which leaves the handler as it was.
func TestAdminAPIChangesTheHandler(t *testing.T) {
	admin, port := freePort(t), freePort(t)
	require.NoError(t, caddy.Load([]byte(fmt.Sprintf(`{
		"admin": {"listen": "127.0.0.1:%s", "config": {"persist": false}},
		"logging": {"logs": {"default": {"level": "PANIC"}}},
		"apps": {"http": {"grace_period": "1s", "servers": {"srv0": {
			"listen": ["127.0.0.1:%s"], "automatic_https": {"disable": true},
			"routes": [{"handle": [
				{"@id": "tagger", "handler": "etag", "version": "v1"},
				{"handler": "static_response", "body": "hello"}
			]}]
		}}}}
	}`, admin, port)), true))
	t.Cleanup(stopCaddy)
	url, id := "http://127.0.0.1:"+port, "http://127.0.0.1:"+admin+"/id/tagger"
	require.Equal(t, strings.Replace(tagFor("hello"), `"`, `"v1-`, 1), get(t, url).tag())

	// Each change replaces the admin endpoint too, and a connection that
	// comes in while it does may be closed; the request can be repeated.
	repeat := func(method, url, body string, fields ...string) (res reply) {
		eventually(t, func() (done bool) {
			var err error
			res, err = try(clientFor(t, "h1", nil), method, url, body, fields...)
			return err == nil && res.err == nil
		})
		return res
	}
	send := func(method, path, body string) reply {
		return repeat(method, id+path, body, "Content-Type", "application/json")
	}
	read := func(fields ...string) reply { return repeat(http.MethodGet, url, "", fields...) }
	require.Equal(t, 200, send(http.MethodPatch, "/version", `"v3"`).status)
	v3 := strings.Replace(tagFor("hello"), `"`, `"v3-`, 1)
	require.Equal(t, v3, read().tag())

	refused := send(http.MethodPatch, "/version", `"v 4"`)
	require.GreaterOrEqual(t, refused.status, 400)
	require.Contains(t, refused.body, "invalid version")
	require.Equal(t, v3, read().tag())
	require.Equal(t, 304, read("If-None-Match", v3).status)

	require.Equal(t, 200, send(http.MethodPatch, "", `{"@id": "tagger", "handler": "etag", "strength": "weak"}`).status)
	require.Equal(t, "W/"+tagFor("hello"), read().tag())
	require.JSONEq(t, `{"@id": "tagger", "handler": "etag", "strength": "weak"}`, send(http.MethodGet, "", "").body)
}
