package main

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTrend(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	sample := func(value func(at float64) float64) series {
		s := series{name: "goroutines", allowed: 30}
		for i := range 240 {
			s.samples = append(s.samples, value(float64(i)/240))
		}
		return s
	}
	for name, value := range map[string]func(at float64) float64{
		"flat":                    func(float64) float64 { return 100 },
		"noise":                   func(float64) float64 { return 100 + 80*random.Float64() },
		"up in the first quarter": func(at float64) float64 { return min(at, 0.25)*4000 + 10*random.Float64() },
		"down":                    func(at float64) float64 { return 1000 - 500*at },
		"a peak in the middle": func(at float64) float64 {
			if at > 0.5 && at < 0.6 {
				return 5000
			}
			return 100
		},
		"little": func(at float64) float64 { return 100 + 20*at },
	} {
		_, grows := sample(value).grows()
		require.False(t, grows, name)
	}
	for name, value := range map[string]func(at float64) float64{
		"steady":      func(at float64) float64 { return 100 + 100*at },
		"under noise": func(at float64) float64 { return 100 + 200*at + 100*random.Float64() },
		"in steps":    func(at float64) float64 { return 100 + 50*float64(int(at*6)) },
	} {
		trend, grows := sample(value).grows()
		require.True(t, grows, "%s: %s", name, trend)
	}

	sawtooth := sample(func(at float64) float64 { return 1e6 * (1 + float64(int(at*1e3)%7)) })
	sawtooth.floor = true
	_, grows := sawtooth.grows()
	require.False(t, grows, "what a garbage collector does is no growth")
}
