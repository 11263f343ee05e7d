package jcs

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPointersAreParsed(t *testing.T) {
	for pointer, want := range map[string][]string{
		"/a": {"a"}, "/a/b": {"a", "b"}, "/": {""}, "//": {"", ""}, "/a~1b/m~0n": {"a/b", "m~n"}, "/~01": {"~1"}, "/~0~1": {"~/"},
		"/*/x": {"*", "x"}, "/é x": {"é x"},
	} {
		got, err := parsePointer(pointer)
		require.NoError(t, err, pointer)
		require.Equal(t, want, got, pointer)
	}
	for _, pointer := range []string{"", "a", "#/a", "/~", "/a~", "/~2", "/a~~0", "/a~0~", "/x/~a/b", "$.a"} {
		_, err := parsePointer(pointer)
		require.ErrorContains(t, err, fmt.Sprintf("%q", pointer))
	}
}
