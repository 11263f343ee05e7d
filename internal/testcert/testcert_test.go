package testcert

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestServerAndClientTrustEachOther, who both have what was made, and nobody
// else.
func TestServerAndClientTrustEachOther(t *testing.T) {
	files, err := Make(t.TempDir())
	require.NoError(t, err)
	own, err := tls.LoadX509KeyPair(files.Certificate, files.Key)
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: files.Roots, ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	defer server.Close()

	others, err := Make(t.TempDir())
	require.NoError(t, err)
	for _, test := range []struct {
		name   string
		config *tls.Config
		trusts bool
	}{
		{"both", &tls.Config{RootCAs: files.Roots, Certificates: []tls.Certificate{own}}, true},
		{"no certificate of the client's", &tls.Config{RootCAs: files.Roots}, false},
		{"another authority", &tls.Config{RootCAs: others.Roots, Certificates: []tls.Certificate{own}}, false},
	} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: test.config}}
		res, err := client.Get(server.URL)
		if test.trusts {
			require.NoError(t, err, test.name)
			require.NoError(t, res.Body.Close())
			client.CloseIdleConnections()
			continue
		}
		require.Error(t, err, test.name)
	}
}

func TestDirectoryThatIsNotThere(t *testing.T) {
	_, err := Make("/not/there")
	require.Error(t, err)
}
