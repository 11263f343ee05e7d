package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// processorTime is what a process has taken of the processors, by the
// scheduler's own accounting.
func processorTime(pid int) time.Duration {
	const schedulerClock = 2
	var spec unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedulerClock), &spec); err != nil {
		return 0
	}
	return time.Duration(spec.Nano())
}
