package etag

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// vectors are digests that were made with other programs than this one:
// Python's hashlib, a BLAKE3 written after its specification, and the XXH3 of
// libxxhash 0.8.1. A tag must never change within a major version.
var vectors = []struct{ algorithm, body, digest string }{
	{"sha256", "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
	{"sha256", "hello", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"},
	{"sha256", pattern(100_000), "cd2df694e424bc7968cc37f47751019e5ca0cd1bdf2e479ea537c3a1c32ee1aa"},
	{"blake3", "", "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"},
	{"blake3", "hello", "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"},
	{"blake3", pattern(100_000), "d93c23eedaf165a7e0be908ba86f1a7a520d568d2d13cde787c8580c5c72cc54"},
	{"xxh3", "", "99aa06d3014798d86001c324468d497f"},
	{"xxh3", "hello", "b5e9c1ad071b3e7fc779cfaa5e523818"},
	{"xxh3", pattern(100_000), "54182c58bbb1337c42c23aeead96750d"},
}

// TestTagsAreTheDigestsOfOtherPrograms, at every length, and however the body
// comes.
func TestTagsAreTheDigestsOfOtherPrograms(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.algorithm, func(t *testing.T) {
			for length := minLength; length <= len(v.digest); length += 2 {
				h := newHandler(t, Handler{Algorithm: v.algorithm, Length: length})
				require.Equal(t, `"`+v.digest[:length]+`"`, tagOfBody(t, h, writing(v.body, 32<<10)))
			}
			full := newHandler(t, Handler{Algorithm: v.algorithm, Length: len(v.digest)})
			for _, size := range []int{7, 1000, 1024, 4096, 32<<10 - 1, 32 << 10, 32<<10 + 1, 1 << 20} {
				require.Equal(t, `"`+v.digest+`"`, tagOfBody(t, full, writing(v.body, size)))
			}
			require.Equal(t, `"`+v.digest+`"`, tagOfBody(t, full, reading(v.body)))

			shortest := newHandler(t, Handler{Algorithm: v.algorithm})
			require.Equal(t, `"`+v.digest[:32]+`"`, tagOfBody(t, shortest, reading(v.body)), "32 digits by default")
		})
	}
}

func TestFormOfATag(t *testing.T) {
	const digits = "2cf24dba5fb0a30e26e83b2ac5b9e29e"
	for want, config := range map[string]Handler{
		`"` + digits + `"`:        {},
		`W/"` + digits + `"`:      {Strength: "weak"},
		`"v1-` + digits + `"`:     {Version: "v1"},
		`W/"v1-` + digits + `"`:   {Version: "v1", Strength: "weak"},
		`"` + digits[:16] + `"`:   {Length: 16},
		`"é-` + digits[:16] + `"`: {Length: 16, Version: "é"},
	} {
		tag := tagOfBody(t, newHandler(t, config), writing("hello", 5))
		require.Equal(t, want, tag)
		require.True(t, parseEntityTag(tag).exists())
	}
}

// TestDifferentBodiesHaveDifferentTags even if one is a part of the other, and
// though hashers are used again.
func TestDifferentBodiesHaveDifferentTags(t *testing.T) {
	for algorithm := range algorithms {
		h := newHandler(t, Handler{Algorithm: algorithm})
		seen := make(map[string]int)
		for n := range 300 {
			seen[tagOfBody(t, h, writing(pattern(n), 100))] = n
		}
		require.Len(t, seen, 300)
	}
}
