package etag

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(AdminForget{})
}

// AdminForget is a module that lets a backend tell that its resources have
// changed by another way than through the etag handler, so that remember
// forgets their tags. This module is not configurable, and is permanently
// mounted to the admin API endpoint at "/etag/forget". It takes POST requests
// with a JSON object such as {"host": "example.com", "path": "/docs/1"}; one
// without a body forgets everything.
type AdminForget struct{}

// CaddyModule returns the Caddy module information.
func (AdminForget) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.etag",
		New: func() caddy.Module { return new(AdminForget) },
	}
}

// Routes returns a route for the /etag/forget endpoint.
func (AdminForget) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/etag/forget", Handler: caddy.AdminHandlerFunc(serveForget)}}
}

// maxForgetBody is the size of the largest request body that is read.
const maxForgetBody = 64 << 10 // bytes

func serveForget(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("method not allowed")}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForgetBody))
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: fmt.Errorf("reading the request body: %w", err)}
	}
	resources, err := parseForget(body)
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	}
	if len(resources) == 0 {
		resources = []string{""} // all
	}
	for _, resource := range resources {
		forgetResource(resource, caddy.Log().Named("admin.api.etag"))
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// parseForget returns the keys of the resources that a request to forget
// names; none stands for all.
func parseForget(body []byte) (resources []string, err error) {
	text := strings.TrimSpace(string(body))
	if text == "" {
		return nil, nil
	}
	members, ok := parseTexts(text)
	if !ok {
		return nil, errors.New(`invalid body: must be one object such as {"host": "example.com", "path": "/docs/1"}, or nothing`)
	}
	if len(members) == 0 {
		return nil, nil
	}
	for name := range members {
		if name != "host" && name != "path" {
			return nil, fmt.Errorf("invalid member %q: must be host or path", name)
		}
	}
	host, path := members["host"], members["path"]
	switch {
	case !isHost(host):
		return nil, fmt.Errorf("invalid host %q: must be a name or an IP address, with or without a port, and be given with a path", host)
	case !strings.HasPrefix(path, "/"):
		return nil, errors.New("invalid path: must be given with a host, and begin with a slash")
	case strings.ContainsAny(path, "?#"):
		return nil, errors.New("invalid path: must be without query and fragment, whatever they are they are forgotten")
	}
	resources = append(resources, keyOf(host, path))
	if decoded, err := url.PathUnescape(path); err == nil && decoded != path {
		resources = append(resources, keyOf(host, decoded))
	}
	return resources, nil
}

// parseTexts parses a JSON object of texts. It is stricter than encoding/json,
// which takes the last of several members of one name, whatever its case, and
// null for no member: who writes that means something else than what is done.
func parseTexts(text string) (members map[string]string, ok bool) {
	decoder := json.NewDecoder(strings.NewReader(text))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') || !utf8.ValidString(text) {
		return nil, false
	}
	members = make(map[string]string)
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, false
		}
		value, err := decoder.Token()
		member, isText := value.(string)
		if _, twice := members[name.(string)]; err != nil || !isText || twice {
			return nil, false
		}
		members[name.(string)] = member
	}
	if token, err := decoder.Token(); err != nil || token != json.Delim('}') {
		return nil, false
	}
	_, err := decoder.Token()
	return members, errors.Is(err, io.EOF)
}

// isHost reports whether a text can be the host of a request. One that can't
// would forget nothing, and who asks for that has another one in mind.
func isHost(text string) bool {
	if _, port, err := net.SplitHostPort(text); err == nil && strings.Trim(port, "0123456789") != "" {
		return false
	}
	host := hostKey(text)
	if _, err := netip.ParseAddr(host); err == nil {
		return strings.HasPrefix(text, "[") == strings.Contains(text, "]")
	}
	return host != "" && !strings.ContainsFunc(host, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune("/\\?#@*,:;[]<>\"", r)
	})
}

// Interface guards
var (
	_ caddy.Module      = AdminForget{}
	_ caddy.AdminRouter = AdminForget{}
)
