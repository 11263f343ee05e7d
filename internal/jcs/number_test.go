package jcs

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

// TestRFC8785Numbers are those of appendix B, by their bits.
func TestRFC8785Numbers(t *testing.T) {
	for bits, want := range map[uint64]string{
		0x0000000000000000: "0",
		0x8000000000000000: "0",
		0x0000000000000001: "5e-324",
		0x8000000000000001: "-5e-324",
		0x7fefffffffffffff: "1.7976931348623157e+308",
		0xffefffffffffffff: "-1.7976931348623157e+308",
		0x4340000000000000: "9007199254740992",
		0xc340000000000000: "-9007199254740992",
		0x4430000000000000: "295147905179352830000",
		0x44b52d02c7e14af5: "9.999999999999997e+22",
		0x44b52d02c7e14af6: "1e+23",
		0x44b52d02c7e14af7: "1.0000000000000001e+23",
		0x444b1ae4d6e2ef4e: "999999999999999700000",
		0x444b1ae4d6e2ef4f: "999999999999999900000",
		0x444b1ae4d6e2ef50: "1e+21",
		0x3eb0c6f7a0b5ed8c: "9.999999999999997e-7",
		0x3eb0c6f7a0b5ed8d: "0.000001",
		0x41b3de4355555553: "333333333.3333332",
		0x41b3de4355555554: "333333333.33333325",
		0x41b3de4355555555: "333333333.3333333",
		0x41b3de4355555556: "333333333.3333334",
		0x41b3de4355555557: "333333333.33333343",
		0xbecbf647612f3696: "-0.0000033333333333333333",
		0x43143ff3c1cb0959: "1424953923781206.2",
	} {
		f := math.Float64frombits(bits)
		for _, format := range []byte("efgE") {
			text := strconv.FormatFloat(f, format, -1, 64)
			got, err := canonical(t, text)
			require.NoError(t, err, text)
			require.Equal(t, want, got, text)
		}
	}
}

// TestFormOfDoublesIsThatOfRFC8785 wherever the shortest text that tells one
// from the next is what was written.
func TestFormOfDoublesIsThatOfRFC8785(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 20_000 {
		f := math.Float64frombits(r.Uint64())
		switch i % 4 {
		case 0: // of few digits
			f = float64(r.IntN(100_000)) * math.Pow10(r.IntN(60)-30)
		case 1: // near the ends of the range without an exponent
			f = r.Float64() * math.Pow10([]int{-8, -7, -6, -5, 15, 16, 17, 20, 21, 22, 23}[r.IntN(11)])
		case 2: // integers
			f = float64(r.Int64())
		}
		if math.IsNaN(f) || math.IsInf(f, 0) {
			continue
		}
		text := strconv.FormatFloat(f, "efg"[r.IntN(3)], -1, 64)
		want, err := jsontext.AppendFormat(nil, []byte(text), jsontext.CanonicalizeRawInts(true), jsontext.CanonicalizeRawFloats(true))
		require.NoError(t, err)
		got, err := canonical(t, text)
		require.NoError(t, err)
		require.Equal(t, string(want), got, text)
	}
}

// TestNumbersAreEqualByValue, whatever their spelling, and only then.
func TestNumbersAreEqualByValue(t *testing.T) {
	seen := make(map[string]string)
	for want, spellings := range map[string][]string{
		"1":                {"1", "1.0", "1e0", "1E+0", "10e-1", "0.1e1", "1.000000000000000000000000000", "1e-0", "1e000", "0.001e3"},
		"-1":               {"-1", "-1.0", "-10e-1"},
		"0":                {"0", "-0", "0.0", "-0.0", "0e5", "0e-99999999999999999999", "0.000e+7", "-0e99999999999999999999999999"},
		"0.1":              {"0.1", "0.10", "1e-1", "0.01e1", "100e-3"},
		"12.5":             {"12.5", "12.50", "1.25e1", "125e-1"},
		"100":              {"100", "1e2", "1.00e2", "100.0"},
		"9007199254740992": {"9007199254740992", "9007199254740992.0", "9.007199254740992e15"},
		"9007199254740994": {"9007199254740994"},
		"0.000001":         {"0.000001", "1e-6", "0.0000010"},
		"1e-7":             {"0.0000001", "1e-7", "1E-07"},
		"1.5e-7":           {"0.00000015", "15e-8", "1.50E-07"},
		"1e+21":            {"1000000000000000000000", "1e21"},
		"1e+23":            {"1e23", "100000000000000000000000"},
		"123456789.123456": {"123456789.123456", "123456789.1234560", "1.23456789123456e8"},
		"-0.5":             {"-0.5", "-5e-1", "-0.50"},

		// no numbers of double precision
		"9007199254740993":                       {"9007199254740993", "9007199254740993.0", "9007199254740993e0", "9.007199254740993e15", "90071992547409930e-1"},
		"-9007199254740993":                      {"-9007199254740993"},
		"18446744073709551615":                   {"18446744073709551615", "1844674407370955161500e-2"},
		"18446744073709551616":                   {"18446744073709551616"},
		"0.33333333333333333333":                 {"0.33333333333333333333", "33333333333333333333e-20", "0.333333333333333333330"},
		"0.3333333333333333":                     {"0.3333333333333333"},
		"123456789012345678901":                  {"123456789012345678901", "123456789012345678901.0", "12345678901234567890.1e1"},
		"1.234567890123456789012e+21":            {"1234567890123456789012", "123456789012345678901.2e1"},
		"1.2345678901234567890125e+21":           {"1234567890123456789012.5", "12345678901234567890125e-1"},
		"123456789012345678901.5":                {"123456789012345678901.5", "123456789012345678901.50", "1234567890123456789015e-1"},
		"0.000001234567890123456789012345678901": {"0.000001234567890123456789012345678901", "1234567890123456789012345678901e-36"},
		"1.234567890123456789012345678901e-7":    {"0.0000001234567890123456789012345678901", "1234567890123456789012345678901e-37"},
		"1e+400":                                 {"1e400", "10e399", "0.1E+401"},
		"-1e+400":                                {"-1e400"},
		"1e+401":                                 {"1e401"},
		"1e-400":                                 {"1e-400", "0.001e-397"},
		"1e-401":                                 {"1e-401"},
		"1.7976931348623157e+308":                {"1.7976931348623157e308"},
		"1.7976931348623158e+308":                {"1.7976931348623158e308"},
		"4.9e-324":                               {"4.9e-324", "0.49e-323"},

		// nor with exponents of 64 bits
		"1e+99999999999999999999":    {"1e99999999999999999999", "10e99999999999999999998", "0.1e100000000000000000000", "1e+000099999999999999999999"},
		"1.5e+100000000000000000000": {"15e99999999999999999999", "1.5e100000000000000000000", "0.00015e100000000000000000004"},
		"1e-99999999999999999999":    {"1e-99999999999999999999", "10e-100000000000000000000", "0.1e-99999999999999999998"},
		"-1e-100000000000000000000":  {"-1e-100000000000000000000", "-0.1e-99999999999999999999"},
		"1e+999999999999999999":      {"1e999999999999999999", "0.1e1000000000000000000", "10e999999999999999998", "0.01e1000000000000000001"},
		"1e+1000000000000000000":     {"1e1000000000000000000", "10e999999999999999999"},
		"1e-999999999999999999":      {"1e-999999999999999999", "10e-1000000000000000000"},
		"1e-1000000000000000000":     {"1e-1000000000000000000", "0.1e-999999999999999999", "0.001e-999999999999999997"},
		"1.2e+9223372036854775808":   {"12e9223372036854775807", "1.2e9223372036854775808", "0.12e9223372036854775809"},
		"1.2e-9223372036854775809":   {"12e-9223372036854775810", "1.2e-9223372036854775809"},
		"1e+18446744073709551616":    {"1e18446744073709551616"},
	} {
		for _, spelling := range spellings {
			for _, document := range []string{"%s", "[%s]", `{"a":%s}`, "[1,%s,2]", "[1, %s , 2]"} {
				got, err := canonical(t, fmt.Sprintf(document, spelling))
				require.NoError(t, err, spelling)
				require.Equal(t, fmt.Sprintf(strings.ReplaceAll(document, " ", ""), want), got, spelling)
			}
		}
		require.NotContains(t, seen, want)
		seen[want] = want
	}
}

// TestLongNumbers have as many digits as one likes, in front of the exponent
// and in it.
func TestLongNumbers(t *testing.T) {
	const n = 100_000
	nines, zeros := strings.Repeat("9", n), strings.Repeat("0", n)
	for want, spellings := range map[string][]string{
		"9." + nines[1:] + "e+99999": {nines, nines + ".0", nines + zeros + "e-100000", "0." + nines + "e100000", nines + "e" + zeros},
		"1e+100000":                  {"1" + zeros, "1" + zeros + ".0", "0." + zeros + "1e200001", "1e100000", "1e" + zeros + "100000"},
		"1e-100001":                  {"0." + zeros + "1", "1e-100001", "1" + zeros + "e-200001"},
		"1e+" + nines:                {"1e" + nines, "1e" + zeros + nines, "10e" + nines[1:] + "8", "0.1e1" + zeros},
		"1e+1" + zeros:               {"1e1" + zeros, "10e" + nines, "100e" + nines[1:] + "8", "0." + zeros + "1e1" + zeros[6:] + "100001"},
		"-1.5e-1" + zeros:            {"-1.5e-1" + zeros, "-0.15e-" + nines, "-15e-1" + zeros[1:] + "1"},
		"1.5e-" + nines:              {"1.5e-" + nines, "15e-1" + zeros, "150e-1" + zeros[1:] + "1"},
	} {
		for _, spelling := range spellings {
			got, err := canonical(t, spelling)
			require.NoError(t, err)
			require.Equal(t, want, got, "%.20s... is %.20s...", spelling, got)
		}
	}
}

// randomNumbers returns two spellings of numbers that are often, but not always,
// the same number.
func randomNumbers(r *rand.Rand) (one, other string) {
	digits := func(n int) string {
		text := make([]byte, n)
		for i := range text {
			text[i] = "0001234567899"[r.IntN(13)]
		}
		return string(text)
	}
	sign := []string{"", "-"}[r.IntN(2)]
	all := strings.TrimLeft(digits(1+r.IntN(30)), "0")
	if all == "" {
		all = "0"
	}
	exponent := r.IntN(80) - 40
	spell := func(all string, exponent int) string {
		zeros := r.IntN(4)
		all += strings.Repeat("0", zeros)
		exponent -= zeros
		whole, part := all, ""
		if n := r.IntN(len(all) + 1); n > 0 && all != "0" {
			whole, part = all[:len(all)-n], "."+all[len(all)-n:]
			exponent += n
			if whole == "" {
				more := strings.Repeat("0", r.IntN(3))
				whole, part = "0", "."+more+part[1:]
				exponent += len(more)
			}
		}
		if strings.TrimLeft(whole, "0") == "" {
			whole = "0"
		}
		switch {
		case exponent == 0 && r.IntN(2) == 0:
			return sign + whole + part
		case exponent < 0:
			return fmt.Sprintf("%s%s%se-%0*d", sign, whole, part, r.IntN(4), -exponent)
		}
		return fmt.Sprintf("%s%s%s%s%0*d", sign, whole, part, []string{"e", "E", "e+"}[r.IntN(3)], r.IntN(4), exponent)
	}
	one = spell(all, exponent)
	switch r.IntN(4) {
	case 0: // another last digit, far behind those that double precision has
		all = all[:len(all)-1] + string("0123456789"[r.IntN(10)])
		if all[0] == '0' && len(all) > 1 {
			all = "1" + all[1:]
		}
	case 1:
		exponent += r.IntN(3) - 1
	case 2:
		sign = []string{"", "-"}[r.IntN(2)]
	}
	return one, spell(all, exponent)
}

// TestNumbersAreEqualAsRationalsAre compares with math/big.
func TestNumbersAreEqualAsRationalsAre(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	counts := map[bool]int{}
	for range 20_000 {
		one, other := randomNumbers(r)
		x, ok := new(big.Rat).SetString(one)
		require.True(t, ok, one)
		y, ok := new(big.Rat).SetString(other)
		require.True(t, ok, other)
		a, err := canonical(t, one)
		require.NoError(t, err, one)
		b, err := canonical(t, other)
		require.NoError(t, err, other)
		equal := x.Cmp(y) == 0
		require.Equal(t, equal, a == b, "%s is %s, %s is %s", one, a, other, b)
		counts[equal]++

		// and each is the number that was read
		z, ok := new(big.Rat).SetString(a)
		require.True(t, ok, a)
		require.Zero(t, x.Cmp(z), "%s is %s", one, a)
	}
	require.Greater(t, min(counts[true], counts[false]), 5_000, "both are common")
}

// FuzzNumber compares the forms of two numbers with the two as rationals.
func FuzzNumber(f *testing.F) {
	for _, seed := range [][2]string{
		{"1", "1.0"},
		{"-0", "0"},
		{"9007199254740992", "9007199254740993"},
		{"1e400", "10e399"},
		{"0.1", "1e-1"},
		{"1e21", "1000000000000000000000"},
		{"1e-7", "0.0000001"},
		{"123456789012345678901.5", "1234567890123456789015e-1"},
		{"1e", "1.e1"},
		{"1e99999999999999999999", "10e99999999999999999998"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, one, other string) {
		if !isNumber(one) {
			return
		}
		a, err := canonical(t, one)
		require.NoError(t, err, one)
		again, err := canonical(t, a)
		require.NoError(t, err)
		require.Equal(t, a, again)
		if !isNumber(other) {
			return
		}
		b, err := canonical(t, other)
		require.NoError(t, err, other)
		for _, text := range []string{one, other} {
			if _, exponent, _ := strings.Cut(strings.ToLower(text), "e"); len(exponent) > 4 {
				return
			}
		}
		x, _ := new(big.Rat).SetString(one)
		y, _ := new(big.Rat).SetString(other)
		require.Equal(t, x.Cmp(y) == 0, a == b, "%s is %s, %s is %s", one, a, other, b)
	})
}

// isNumber reports whether a text is a number in JSON by jsontext.
func isNumber(text string) bool {
	v := jsontext.Value(text)
	return v.IsValid() && v.Kind() == '0' && strings.TrimSpace(text) == text
}
