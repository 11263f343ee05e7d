package etag

import (
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHiddenFieldsComeBackAsTheyWere(t *testing.T) {
	header := http.Header{"If-Match": {`"a"`, `"b"`}, "Range": {}, "Accept": {"x"}}
	before := header.Clone()
	var hidden hiddenFields
	for _, name := range []string{"If-Match", "Range", "If-Range"} {
		hidden.hide(header, name)
	}
	require.Equal(t, http.Header{"Accept": {"x"}}, header)
	hidden.restore(header)
	require.Equal(t, before, header)
}

func TestTrailersAreTheAnnouncedAndThePrefixed(t *testing.T) {
	for name, test := range map[string]struct {
		header http.Header
		names  []string
	}{
		"none":      {http.Header{"X-Sum": {"1"}}, nil},
		"announced": {http.Header{"Trailer": {"X-Sum, x-two", "X-Three"}}, []string{"X-Sum", "X-Three", "X-Two"}},
		"prefixed":  {http.Header{http.TrailerPrefix + "X-Sum": {"1"}}, []string{http.TrailerPrefix + "X-Sum"}},
		"both":      {http.Header{"Trailer": {"X-Sum"}, http.TrailerPrefix + "X-Two": {"1"}}, []string{http.TrailerPrefix + "X-Two", "X-Sum"}},
	} {
		var names []string
		eachTrailer(test.header, func(name string) { names = append(names, name) })
		slices.Sort(names)
		require.Equal(t, test.names, names, name)
		require.Equal(t, len(test.header["Trailer"]) > 0, announcesTrailers(test.header), name)
	}
}

func TestTrailersAreTakenOutOfTheHeader(t *testing.T) {
	header := http.Header{"Trailer": {"X-Sum, X-Later"}, "X-Sum": {"1"}, http.TrailerPrefix + "X-Two": {"2"}, "X-Other": {"3"}}
	taken := takeTrailers(header, nil)
	require.ElementsMatch(t, []field{{"X-Sum", []string{"1"}}, {http.TrailerPrefix + "X-Two", []string{"2"}}}, taken)
	require.Equal(t, http.Header{"Trailer": {"X-Sum, X-Later"}, "X-Other": {"3"}}, header)
	dropTrailers(header, nil)
	require.Equal(t, http.Header{"X-Other": {"3"}}, header)
}

func TestFieldsOfAnErrorAreNotThoseOfTheResponseItReplaces(t *testing.T) {
	header := make(http.Header)
	for _, name := range []string{
		"Content-Type", "Content-Length", "Content-Encoding", "Content-Language", "Content-Range", "Transfer-Encoding", "Trailer",
		"Accept-Ranges", "Age", "Cache-Control", "Content-Disposition", "Content-Location", "Etag", "Expires", "Last-Modified",
		"Vary", "Set-Cookie", "Strict-Transport-Security", "X-Request-Id",
	} {
		header.Set(name, "x")
	}
	dropRepresentationFields(header, nil)
	require.Equal(t, http.Header{
		"Vary": {"x"}, "Set-Cookie": {"x"}, "Strict-Transport-Security": {"x"}, "X-Request-Id": {"x"},
	}, header)
}
