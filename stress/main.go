// Command stress tests what the etag handler promises, for as long as it is
// told to: it starts real Caddys as processes and a backend of its own, has
// clients read and write, injects faults, and checks what the clients saw. It
// prints a table, and exits with 1 if anything was wrong; the shortest history
// that shows it is in a file.
//
//	go run . [-for 10m] [-seed 1] [-profile writes,reads,…] [-mutation name] [-lock off]
//
// What is sent, when clients leave and which faults come follows from the seed;
// how the machine interleaves that does not.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// options are those of a run.
type options struct {
	length   time.Duration
	seed     uint64
	out      string // directory for findings
	lock     string // in the place of the profile's own
	mutation string
	enough   int // findings, after which a profile ends
}

// profile is a kind of load, with the faults that go with it.
type profile struct {
	name  string
	about string
	run   func(*world)
}

var profiles = []profile{
	{"writes", "racing writes through one Caddy, and all that can go wrong with them", runWrites},
	{"cluster", "racing writes through several Caddys with one lock service, killed, stopped and started", runCluster},
	{"remember", "reads answered from memory, beside racing writes", runRemember},
	{"reads", "conditional reads and ranges, compared with net/http's ServeContent", runReads},
	{"deaths", "a backend that dies in every part of a body", runDeaths},
	{"hostile", "hostile clients, beside one that behaves", runHostile},
	{"soak", "a mixed load, and whether what Caddy uses grows", runSoak},
}

func main() {
	if os.Getenv(roleVar) != "" {
		runRole()
		return
	}
	o := options{enough: 3}
	var names string
	flag.DurationVar(&o.length, "for", time.Minute, "how long the run takes, all profiles together")
	flag.Uint64Var(&o.seed, "seed", 1, "from which faults and requests are made")
	flag.StringVar(&names, "profile", "", "the profiles to run, separated by commas; all if empty: "+strings.Join(profileNames(), ", "))
	flag.StringVar(&o.out, "out", "findings", "the directory for histories of what was wrong")
	flag.StringVar(&o.mutation, "mutation", "", "break the handler on purpose: "+strings.Join(mutationNames(), ", "))
	flag.StringVar(&o.lock, "lock", "", "the lock in the place of the profile's own, such as off")
	flag.Parse()

	chosen, err := chooseProfiles(names)
	if err != nil || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "stress:", err, strings.Join(flag.Args(), " "))
		os.Exit(2)
	}
	fmt.Printf("Seed %d, %s, %d processors, %s.\n\n", o.seed, o.length, runtime.NumCPU(), runtime.Version())
	var results []*result
	for _, p := range chosen {
		results = append(results, run(p, o, o.length/time.Duration(len(chosen))))
	}
	if printTable(os.Stdout, results) > 0 {
		os.Exit(1)
	}
}

func profileNames() []string {
	var names []string
	for _, p := range profiles {
		names = append(names, p.name)
	}
	return names
}

func chooseProfiles(names string) ([]profile, error) {
	if names == "" {
		return profiles, nil
	}
	var chosen []profile
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(profiles, func(p profile) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("invalid profile %q: must be one of %s", name, strings.Join(profileNames(), ", "))
		}
		chosen = append(chosen, profiles[i])
	}
	return chosen, nil
}
