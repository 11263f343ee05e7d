package held

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// contentOf returns n bytes of which no two blocks are equal.
func contentOf(n int) []byte {
	content := make([]byte, n)
	for i := range content {
		content[i] = byte(i % 251)
	}
	return content
}

// hold returns a body with this content, which came in pieces of a size.
func hold(tb testing.TB, budget *Budget, content []byte, size int) *Body {
	tb.Helper()
	return holdExpected(tb, budget, content, size, 0)
}

// holdExpected is hold for a body of which a size is expected.
func holdExpected(tb testing.TB, budget *Budget, content []byte, size int, expected int64) *Body {
	tb.Helper()
	body := &Body{Budget: budget, Expected: expected}
	var fresh []byte
	for piece := range slices.Chunk(content, size) {
		for len(piece) > 0 {
			room := body.Room()
			require.NotEmpty(tb, room)
			n := copy(room, piece)
			piece = piece[n:]
			body.Grow(n)
			got := body.Fresh(3000)
			require.True(tb, len(got) == 0 || len(got) >= 3000 || body.last.full())
			fresh = append(fresh, got...)
		}
	}
	fresh = append(fresh, body.Fresh(0)...)
	require.True(tb, bytes.Equal(content, fresh), "each byte is fresh once")
	return body
}

// TestBlocksAreAsLargeAsWhatIsExpectedFills: few of them, and hardly more memory
// than the body takes.
func TestBlocksAreAsLargeAsWhatIsExpectedFills(t *testing.T) {
	for _, tt := range []struct {
		expected int64
		blocks   []int64 // in BlockSize
	}{
		{-1, []int64{1}},
		{0, []int64{1}},
		{1, []int64{1}},
		{BlockSize, []int64{1}},
		{BlockSize + 1, []int64{1, 1}},
		{2 * BlockSize, []int64{2}},
		{3*BlockSize + 1, []int64{2, 1, 1}},
		{32 * BlockSize, []int64{32}},
		{100*BlockSize + 1, []int64{32, 32, 32, 4, 1}},
	} {
		budget := NewBudget(1 << 30)
		body := holdExpected(t, budget, contentOf(int(max(tt.expected, 1))), 1000, tt.expected)
		var blocks []int64
		memory := int64(0)
		for block := body.first; block != nil; block = block.next {
			blocks = append(blocks, int64(len(block.buf))/BlockSize)
			memory += int64(len(block.buf))
		}
		require.Equal(t, tt.blocks, blocks, tt.expected)
		require.Equal(t, memory, budget.Held())
		body.Release()
		require.Zero(t, budget.Held())
	}

	// A body that gets larger than was expected goes on in small ones, and one
	// for which there is no large one makes do with them.
	body := holdExpected(t, NewBudget(1<<30), contentOf(5*BlockSize), 1000, 2*BlockSize)
	require.Len(t, body.last.buf, BlockSize)
	body.Release()
	body = holdExpected(t, NewBudget(3*BlockSize), contentOf(3*BlockSize), 1000, 32*BlockSize)
	require.Len(t, body.first.buf, BlockSize)
	body.Release()
}

// TestBodyComesOutAsItCameIn, by each way, whatever its size is to the blocks.
func TestBodyComesOutAsItCameIn(t *testing.T) {
	for _, size := range []int{0, 1, BlockSize - 1, BlockSize, BlockSize + 1, 3 * BlockSize, 3*BlockSize + 100} {
		for _, piece := range []int{1021, BlockSize, 5 * BlockSize} {
			budget := NewBudget(10 * BlockSize)
			content := contentOf(size)
			body := hold(t, budget, content, piece)
			require.EqualValues(t, size, body.Size())
			require.True(t, bytes.Equal(content[:min(size, BlockSize)], body.Head()))
			require.True(t, bytes.Equal(content, slices.Concat(slices.Collect(body.Pieces())...)))
			require.NoError(t, iotest.TestReader(body.NewReader(), content))
			whole, ok := body.Contiguous()
			require.Equal(t, size <= BlockSize, ok)
			require.True(t, !ok || bytes.Equal(content, whole))

			var written bytes.Buffer
			n, err := body.WriteTo(&written)
			require.NoError(t, err)
			require.EqualValues(t, size, n)
			require.True(t, bytes.Equal(content, written.Bytes()))
			require.Zero(t, body.Size())
			require.Empty(t, body.Head())
			require.Zero(t, budget.Held())
		}
	}
}

// TestPiecesEndWhenNobodyWantsMore as those of every iterator do.
func TestPiecesEndWhenNobodyWantsMore(t *testing.T) {
	body := hold(t, NewBudget(1<<20), contentOf(3*BlockSize), BlockSize)
	defer body.Release()
	for piece := range body.Pieces() {
		require.Len(t, piece, BlockSize)
		break
	}
}

// failingWriter takes one piece.
type failingWriter struct{ pieces int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.pieces++; w.pieces > 1 {
		return 1, errors.New("no more")
	}
	return len(p), nil
}

func TestMemoryIsGivenBackWhenAWriteFails(t *testing.T) {
	budget := NewBudget(1 << 20)
	body := hold(t, budget, contentOf(3*BlockSize), BlockSize)
	n, err := body.WriteTo(new(failingWriter))
	require.ErrorContains(t, err, "no more")
	require.EqualValues(t, BlockSize+1, n)
	require.Zero(t, body.Size())
	require.Zero(t, budget.Held())
}

// TestBudgetIsForAllItsBodies, and what one gives back another can have.
func TestBudgetIsForAllItsBodies(t *testing.T) {
	before := Total()
	budget := NewBudget(3*BlockSize + BlockSize/2)
	one := hold(t, budget, contentOf(BlockSize+1), BlockSize)
	other := hold(t, budget, contentOf(BlockSize), BlockSize)
	require.EqualValues(t, 3*BlockSize, budget.Held())
	require.EqualValues(t, 3*BlockSize, Total()-before)
	require.Nil(t, other.Room())
	require.EqualValues(t, BlockSize, other.Size(), "it stays as it is")
	require.Len(t, one.Room(), BlockSize-1, "its last block has room")

	third := hold(t, NewBudget(BlockSize), contentOf(1), 1)
	require.EqualValues(t, 4*BlockSize, Total()-before)
	third.Release()

	one.Release()
	one.Release() // again
	require.EqualValues(t, BlockSize, budget.Held())
	require.Len(t, other.Room(), BlockSize)
	other.Release()
	require.Zero(t, budget.Held())
	require.Equal(t, before, Total())
	require.Nil(t, (&Body{Budget: NewBudget(BlockSize - 1)}).Room())
}

// TestPinnedRoomIsNotUsedAgain while somebody may still put something there.
func TestPinnedRoomIsNotUsedAgain(t *testing.T) {
	budget := NewBudget(10 << 20)
	body := hold(t, budget, contentOf(100), 100)
	pinned := body.Room()
	body.Pin()
	_, err := body.WriteTo(io.Discard)
	require.NoError(t, err)
	require.Zero(t, budget.Held())
	for range 100 {
		other := hold(t, budget, contentOf(BlockSize), BlockSize)
		require.NotSame(t, &pinned[0], &other.Head()[100])
		defer other.Release()
	}
	pinned[0]++ // nobody sees this
	body.Unpin()

	require.NotNil(t, body.Room())
	body.Grow(10)
	require.EqualValues(t, 10, body.Size())
	body.Release()
}
