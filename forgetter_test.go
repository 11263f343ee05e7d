package etag

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(&testForgetter{}) }

// hub is what the forgetters of the tests share: it plays all other Caddys.
var hub struct {
	sync.Mutex
	told    []string // what others have been told
	deaf    bool
	hear    func() // called by who asks whether it is heard, if it is not nil
	failing bool
	listens map[int]func(resource string)
	next    int
}

// testForgetter is a forgetter without a service.
type testForgetter struct {
	Group string `json:"group,omitempty"`
}

func (*testForgetter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.etag.forgetters.test", New: func() caddy.Module { return new(testForgetter) }}
}

func (f *testForgetter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	for d.NextBlock(0) {
		if d.Val() != "group" || !d.AllArgs(&f.Group) {
			return d.ArgErr()
		}
	}
	return nil
}

func (*testForgetter) Forget(_ context.Context, resource string) error {
	hub.Lock()
	defer hub.Unlock()
	if hub.failing {
		return errors.New("nobody is there")
	}
	hub.told = append(hub.told, resource)
	return nil
}

func (*testForgetter) Listen(forget func(resource string)) (stop func()) {
	hub.Lock()
	defer hub.Unlock()
	if hub.listens == nil {
		hub.listens = make(map[int]func(string))
	}
	hub.next++
	id := hub.next
	hub.listens[id] = forget
	return func() {
		hub.Lock()
		defer hub.Unlock()
		delete(hub.listens, id)
	}
}

func (*testForgetter) Hears() bool {
	hub.Lock()
	defer hub.Unlock()
	if hub.hear != nil {
		hub.hear()
	}
	return !hub.deaf
}

func tell(resource string) {
	hub.Lock()
	defer hub.Unlock()
	for _, forget := range hub.listens {
		forget(resource)
	}
}

func set(change func()) {
	hub.Lock()
	defer hub.Unlock()
	change()
}

func toldSince() []string {
	hub.Lock()
	defer hub.Unlock()
	told := hub.told
	hub.told = nil
	return told
}

const togetherSite = `handle /alike {
		etag {
			remember 1h {
				test
			}
		}
		respond alike
	}
	handle {
		etag {
			remember 1h 100 {
				test {
					group one
				}
			}
		}
		reverse_proxy `

// startTogether runs handlers that forget together, one of which remembers a
// document, and returns what asks whether it does.
func startTogether(t *testing.T) (remembers func() bool) {
	t.Helper()
	b := &asked{body: "one"}
	url := startCaddy(t, togetherSite+startUpstream(t, b.ServeHTTP)+"\n}")
	client := clientFor(t, "h1", nil)
	remembers = func() bool { return b.remembers(t, client, "GET", url+"/doc", "If-None-Match", oneTag) }
	require.False(t, remembers())
	require.True(t, remembers())
	return remembers
}

// TestWhatOthersTellIsForgotten, and where they are not heard, nothing is
// answered from memory.
// TestRefusedConfigurationLeavesNoForgetter that goes on listening.
func TestRefusedConfigurationLeavesNoForgetter(t *testing.T) {
	_, err := loadHandler(t, `{"remember": -5, "remember_forgetter": {"module": "test", "group": "refused"}}`)
	require.ErrorContains(t, err, "remember")
	forgetters.mu.Lock()
	defer forgetters.mu.Unlock()
	require.Empty(t, forgetters.byID)
}

func TestWhatOthersTellIsForgotten(t *testing.T) {
	remembers := startTogether(t)
	tell("127.0.0.1/other")
	require.True(t, remembers())
	tell("127.0.0.1/doc")
	require.False(t, remembers())
	require.True(t, remembers())
	tell("")
	require.False(t, remembers())
	require.True(t, remembers())

	set(func() { hub.deaf = true })
	require.False(t, remembers())
	require.False(t, remembers())
	set(func() { hub.deaf = false })
	require.True(t, remembers())

	stopCaddy()
	require.Empty(t, hub.listens)
	require.Empty(t, forgetters.byID)
}

// TestOthersAreToldOfEachWrite before it goes down, and when it has ended; each
// service once, however many handlers use it.
func TestOthersAreToldOfEachWrite(t *testing.T) {
	port := freePort(t)
	s := newStore(map[string]string{"/doc": "one"})
	url, caddyfile := siteAt(t, strings.ReplaceAll(togetherSite, "\n\t\t\t\t\tgroup one\n", "\n")+s.start(t)+"\n}")
	load(t, strings.Replace(caddyfile, "admin off", "admin 127.0.0.1:"+port, 1))
	t.Cleanup(stopCaddy)
	require.Len(t, forgetters.byID, 1, "they are configured alike")
	client := clientFor(t, "h1", nil)
	for _, tt := range []struct {
		method string
		sends  fields
		told   bool
	}{
		{"PUT", fields{"If-Match", oneTag}, true},
		{"PUT", nil, true},
		{"POST", nil, true},
		{"PUT", fields{"If-Match", `"x"`}, false},
		{"GET", nil, false},
	} {
		toldSince()
		do(t, client, tt.method, url+"/doc", "one", tt.sends...)
		told := toldSince()
		if !tt.told {
			require.Empty(t, told, tt)
			continue
		}
		require.GreaterOrEqual(t, len(told), 2, tt)
		require.LessOrEqual(t, len(told), 8, tt)
		for i, resource := range told {
			require.Equal(t, []string{"127.0.0.1/doc", "127.0.0.1/"}[i%2], resource)
		}
	}

	endpoint := "http://127.0.0.1:" + port + "/etag/forget"
	require.Equal(t, 204, do(t, client, "POST", endpoint, `{"host": "a.example", "path": "/b"}`).status)
	require.Equal(t, []string{"a.example/b"}, toldSince())
	require.Equal(t, 204, do(t, client, "POST", endpoint, "").status)
	require.Equal(t, []string{""}, toldSince())
}

// TestWriteGoesOnIfOthersCantBeTold: the forgetter makes up for it.
func TestWriteGoesOnIfOthersCantBeTold(t *testing.T) {
	s := newStore(map[string]string{"/doc": "one"})
	url := startCaddy(t, togetherSite+s.start(t)+"\n}")
	set(func() { hub.failing = true })
	t.Cleanup(func() { set(func() { hub.failing = false }) })
	require.Equal(t, 204, do(t, clientFor(t, "h1", nil), "PUT", url+"/doc", "two", "If-Match", oneTag).status)
	require.Equal(t, 1, s.changes())
}

func TestMistakesInForgetters(t *testing.T) {
	for _, c := range []struct{ block, message string }{
		{"redis {\n}", `invalid remember module "redis": must be test, or another module in http.etag.forgetters, at Caddyfile:4`},
		{"test\ntest", "too many modules for remember, \"test\": write one, at Caddyfile:5"},
		{"test {\ngrop one\n}", "wrong argument count or unexpected line ending after 'grop', at Caddyfile:5"},
	} {
		_, err := adapt("http://localhost {\netag {\nremember 1h {\n" + c.block + "\n}\n}\n}")
		require.Error(t, err)
		require.Equal(t, c.message, strings.TrimPrefix(err.Error(), "parsing caddyfile tokens for 'etag': "))
	}
	for _, c := range []struct{ config, message string }{
		{`{"remember_forgetter": {"module": "test"}}`, "invalid remember_forgetter without remember: must be beside a duration"},
		{`{"remember": "1h", "remember_forgetter": {"module": "redis"}}`, `invalid remember module "redis": must be test, or another module in http.etag.forgetters`},
	} {
		_, err := loadHandler(t, c.config)
		require.ErrorContains(t, err, c.message)
	}
}

// TestWhoHearsAgainHasForgotten, also for a question that was asked while it did
// not.
func TestWhoHearsAgainHasForgotten(t *testing.T) {
	remembers := startTogether(t)
	defer set(func() { hub.deaf, hub.hear = false, nil })
	set(func() {
		hub.deaf = true
		hub.hear = func() { // as it has subscribed again in this moment
			for _, forget := range hub.listens {
				forget("")
			}
			hub.deaf, hub.hear = false, nil
		}
	})
	require.False(t, remembers())
	_ = remembers() // the answer to what was asked before that was not remembered
	require.True(t, remembers())
}
