package history

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

const patience = 10 * time.Second

func read(call, end int64, shows string) Operation {
	if shows == absent {
		return Operation{Kind: Read, Call: call, Return: end, Status: 404}
	}
	return Operation{Kind: Read, Call: call, Return: end, Status: 200, Tag: shows, Got: shows}
}

func notModified(call, end int64, tag string) Operation {
	return Operation{Kind: Read, Call: call, Return: end, Status: 304, IfNoneMatch: tag, Tag: tag}
}

func remembered(call, end int64, tag string) Operation {
	op := notModified(call, end, tag)
	op.Remembered = true
	return op
}

func write(call, end int64, ifMatch, content string) Operation {
	return Operation{Kind: Write, Call: call, Return: end, IfMatch: ifMatch, Content: content, Status: 204}
}

func create(call, end int64, content string) Operation {
	return Operation{Kind: Write, Call: call, Return: end, IfNoneMatch: "*", Content: content, Status: 201}
}

func remove(call, end int64, ifMatch string) Operation {
	return Operation{Kind: Delete, Call: call, Return: end, IfMatch: ifMatch, Status: 204}
}

func answered(op Operation, status int, tag string) Operation {
	op.Status, op.Tag = status, tag
	return op
}

func unanswered(op Operation) Operation {
	op.Status, op.Return = 0, Never
	return op
}

func late(op Operation) Operation {
	op = unanswered(op)
	op.Late = true
	return op
}

func TestLegalHistories(t *testing.T) {
	for name, operations := range map[string][]Operation{
		"none": {},
		"a life": {
			read(0, 1, absent), create(2, 3, "a"), read(4, 5, "a"), notModified(6, 7, "a"),
			write(8, 9, "a", "b"), read(10, 11, "b"), remove(12, 13, "b"), read(14, 15, absent), create(16, 17, "c"),
		},
		"of racing writes with one tag one passes": {
			create(0, 1, "a"), write(2, 20, "a", "b"),
			answered(write(2, 21, "a", "c"), 412, "b"), answered(write(2, 5, "a", "d"), 412, "b"), read(22, 23, "b"),
		},
		"of racing creates one passes": {
			create(0, 20, "a"), answered(create(1, 21, "b"), 412, "a"),
		},
		"a read beside a write shows what was before or after": {
			create(0, 1, "a"), write(2, 20, "a", "b"), read(3, 19, "a"), read(4, 19, "b"), read(21, 22, "b"),
		},
		"unguarded writes in any order": {
			write(0, 10, "", "a"), write(0, 10, "", "b"), read(11, 12, "a"), write(13, 14, "*", "c"), read(15, 16, "c"),
		},
		"a write without an answer that happened": {
			create(0, 1, "a"), unanswered(write(2, 0, "a", "b")), read(3, 4, "b"), answered(write(5, 6, "a", "c"), 412, "b"),
		},
		"a write without an answer that did not happen": {
			create(0, 1, "a"), unanswered(write(2, 0, "a", "b")), read(3, 4, "a"), write(5, 6, "a", "c"), read(7, 8, "c"),
		},
		"a write without an answer that happened late": {
			create(0, 1, "a"), unanswered(write(2, 0, "a", "b")), read(3, 4, "a"), read(5, 6, "b"),
		},
		"a write with a 502 that happened": {
			create(0, 1, "a"), answered(write(2, 3, "a", "b"), 502, ""), read(4, 5, "b"),
		},
		"a write that the backend did when it had no lock any more": {
			create(0, 1, "a"), late(write(2, 0, "a", "b")), write(3, 4, "a", "c"), read(5, 6, "b"),
		},
		"a refused write": {
			create(0, 1, "a"), answered(write(2, 3, "a", "b"), Refused, ""), read(4, 5, "a"),
		},
		"a delete without an answer": {
			create(0, 1, "a"), unanswered(remove(2, 0, "a")), read(3, 4, "a"), read(5, 6, absent),
		},
		"what is not there can't be replaced or deleted": {
			answered(write(0, 1, "a", "b"), 404, ""), answered(remove(2, 3, ""), 404, ""), answered(write(4, 5, "*", "b"), 404, ""),
		},
		"a tag on a write's answer": {
			answered(create(0, 1, "a"), 201, "a"), read(2, 3, "a"),
		},
		"a 304 from memory, beside a write that is not answered": {
			create(0, 1, "a"), write(10, 20, "a", "b"), read(11, 12, "b"), remembered(13, 14, "a"), read(21, 22, "b"),
		},
		"a response without a tag": {
			create(0, 1, "a"), {Kind: Read, Call: 2, Return: 3, Status: 200, Got: "a"},
		},
		"a read that failed": {
			create(0, 1, "a"), unanswered(read(2, 0, "x")),
		},
	} {
		require.Equal(t, Legal, Check(operations, patience), name)
	}
}

func TestViolations(t *testing.T) {
	for name, operations := range map[string][]Operation{
		"a lost update: two writes with one tag pass": {
			create(0, 1, "a"), write(2, 20, "a", "b"), write(2, 20, "a", "c"),
		},
		"a lost update: a write without an answer is overwritten by one that has not seen it": {
			create(0, 1, "a"), unanswered(write(2, 0, "a", "b")), read(3, 4, "b"), write(5, 6, "a", "c"),
		},
		"a lost update: one without an answer overwrites another": {
			create(0, 1, "a"), unanswered(write(2, 0, "a", "b")), write(3, 4, "a", "c"), read(5, 6, "c"), read(7, 8, "b"),
		},
		"two creates pass": {
			create(0, 20, "a"), create(0, 20, "b"),
		},
		"a deleted document is replaced": {
			create(0, 1, "a"), remove(2, 3, "a"), write(4, 5, "a", "b"),
		},
		"a delete of what has changed": {
			create(0, 1, "a"), write(2, 3, "a", "b"), remove(4, 5, "a"),
		},
		"a delete of what is not there": {
			remove(0, 1, ""),
		},
		"a write is refused, but nobody has changed the document": {
			create(0, 1, "a"), answered(write(2, 3, "a", "b"), 412, "a"),
		},
		"a write is refused with a tag that is not current": {
			create(0, 1, "a"), write(2, 3, "a", "b"), answered(write(4, 5, "a", "c"), 412, "a"),
		},
		"a refused write was done": {
			create(0, 1, "a"), answered(write(2, 3, "a", "b"), Refused, ""), read(4, 5, "b"),
		},
		"a failed write was done": {
			create(0, 1, "a"), write(2, 3, "a", "b"), answered(write(4, 5, "a", "c"), 412, "b"), read(6, 7, "c"),
		},
		"a stale read after an answered write": {
			create(0, 1, "a"), write(2, 3, "a", "b"), read(4, 5, "a"),
		},
		"a read goes back": {
			create(0, 1, "a"), write(2, 20, "a", "b"), read(3, 4, "b"), read(5, 6, "a"),
		},
		"a 304 with a tag that is not current": {
			create(0, 1, "a"), write(2, 3, "a", "b"), notModified(4, 5, "a"),
		},
		"a 304 that nobody asked for": {
			create(0, 1, "a"), {Kind: Read, Call: 2, Return: 3, Status: 304, Tag: "a", IfNoneMatch: "b"},
		},
		"a 304 from memory with a tag from before an answered write": {
			create(0, 1, "a"), write(2, 3, "a", "b"), remembered(4, 5, "a"),
		},
		"a 304 from memory with a tag from before an answered delete": {
			create(0, 1, "a"), remove(2, 3, "a"), remembered(4, 5, "a"),
		},
		"a 304 from memory with a tag that was never issued": {
			create(0, 1, "a"), remembered(2, 3, "b"),
		},
		"a truncated body as whole": {
			create(0, 1, "a"), {Kind: Read, Call: 2, Return: 3, Status: 200, Tag: "a", Got: "part of a"},
		},
		"a truncated body as whole, with its own tag": {
			create(0, 1, "a"), read(2, 3, "part of a"),
		},
		"a body that nobody wrote": {
			create(0, 1, "a"), read(2, 3, "b"),
		},
		"a tag of another body": {
			create(0, 1, "a"), write(2, 3, "", "b"), {Kind: Read, Call: 4, Return: 5, Status: 200, Tag: "a", Got: "b"},
		},
		"a wrong tag on a write's answer": {
			answered(create(0, 1, "a"), 201, "b"),
		},
		"a document disappears": {
			create(0, 1, "a"), read(2, 3, absent),
		},
		"an answer that is none": {
			create(0, 1, "a"), answered(write(2, 3, "a", "b"), 302, ""),
		},
	} {
		require.Equal(t, Illegal, Check(operations, patience), name)
		short, initial := Shrink(operations, patience)
		require.NotEmpty(t, short, name)
		require.Equal(t, Illegal, verdict(short, patience, initial...), name)
	}
}

// TestAShortHistoryIsLeft buries a lost update in a long history.
func TestAShortHistoryIsLeft(t *testing.T) {
	operations := []Operation{create(0, 1, "0")}
	now, last := int64(2), "0"
	turn := func(i int, passes bool) {
		next := string(rune('A' + i))
		operations = append(operations, write(now, now+10, last, next), read(now+1, now+2, last),
			answered(write(now, now+11, last, next+"2"), 412, next), unanswered(write(now+3, 0, last, next+"3")), read(now+12, now+13, next))
		if !passes {
			operations = append(operations, write(now, now+9, last, next+"4"))
		}
		now, last = now+20, next
	}
	for i := range 10 {
		turn(i, true)
	}
	require.Equal(t, Legal, Check(operations, patience))
	turn(10, false)
	for i := range 10 {
		turn(11+i, true)
	}
	require.Equal(t, Illegal, Check(operations, patience))

	short, initial := Shrink(operations, patience)
	require.Len(t, short, 2, "%v", short)
	require.Greater(t, len(initial), 1, "what was before does not matter")
	for _, op := range short {
		require.Equal(t, "J", op.IfMatch)
	}
}

// TestShrinkingLegalPartsStaysLegal: what Shrink may take away makes no
// legal history illegal.
func TestShrinkingLegalPartsStaysLegal(t *testing.T) {
	operations := []Operation{
		create(0, 1, "a"), write(2, 20, "a", "b"), read(3, 19, "a"), read(4, 19, "b"), unanswered(write(5, 0, "a", "c")),
		write(21, 40, "b", "d"), answered(write(22, 41, "b", "e"), 412, "d"), unanswered(remove(23, 0, "")), read(42, 43, absent),
		create(44, 50, "f"), read(45, 46, "f"), write(60, 70, "", "g"), read(61, 80, "g"), notModified(81, 82, "g"),
	}
	require.Equal(t, Legal, Check(operations, patience))
	for end := range int64(90) {
		require.Equal(t, Legal, verdict(before(operations, end), patience, absent), "until %d", end)
	}
	for _, cut := range cuts(operations) {
		require.Equal(t, Legal, verdict(after(operations, cut), patience, states(operations)...), "from %d", cut)
	}
	for i, op := range operations {
		if op.idle() {
			require.Equal(t, Legal, Check(slices.Delete(slices.Clone(operations), i, i+1), patience), "without %v", op)
		}
	}
}

func TestReport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "history")
	operations := []Operation{create(0, 1000, "a"), write(2000, 5000, "a", "b"), unanswered(write(2000, 0, "a", "c")), read(6000, 7000, "a")}
	short, initial := Shrink(operations, patience)
	require.NoError(t, Report(file, short, initial, []string{"The backend stored a, b."}))
	text, err := os.ReadFile(file + ".txt")
	require.NoError(t, err)
	for _, words := range []string{"No order", `write of b, If-Match: a → 204`, `read → 200 with ETag: a`, "The backend stored a, b."} {
		require.Contains(t, string(text), words)
	}
	page, err := os.ReadFile(file + ".html")
	require.NoError(t, err)
	require.Contains(t, string(page), "If-Match: a")
}

// TestWhatIsLeftOutDecidesNothing compares with a check of random histories, most
// of them illegal, in which no write is left out or given an end.
func TestWhatIsLeftOutDecidesNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	tags := []string{"a", "b", "c", "d", "e", "f"} // each is written once
	verdicts := make(map[Verdict]int)
	for range 20_000 {
		var operations []Operation
		for i := range 2 + random.IntN(5) {
			call := random.Int64N(30)
			op := Operation{Client: i, Call: call, Return: call + 1 + random.Int64N(15)}
			pick := func() string { return tags[random.IntN(len(tags))] }
			switch random.IntN(7) {
			case 0, 1:
				op = read(op.Call, op.Return, pick())
			case 2:
				op.Kind = Delete
			default:
				op.Kind, op.Content = Write, tags[i%len(tags)]
			}
			if op.Kind != Read {
				op.Status = []int{204, 0, 0, 412, 502}[random.IntN(5)]
				op.IfMatch = []string{"", "*", pick(), pick()}[random.IntN(4)]
				op.Late = random.IntN(5) == 0 && op.Status != 412
				if op.IfMatch == "" && random.IntN(3) > 0 {
					op.IfNoneMatch = "*"
				}
				if op.Status == 412 {
					op.Tag = pick()
				}
			}
			operations = append(operations, op)
		}
		whole := slices.Clone(operations)
		for i, op := range whole {
			if !op.answered() {
				whole[i].Return = Never
			}
		}
		want := Illegal
		if porcupine.CheckOperations(model(absent), forPorcupine(whole)) {
			want = Legal
		}
		require.Equal(t, want, Check(operations, patience), "%v", operations)
		verdicts[want]++
	}
	require.Greater(t, verdicts[Legal], 500)
	require.Greater(t, verdicts[Illegal], 500)
}
