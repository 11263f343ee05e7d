package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// server is a process that serves locks.
type server struct {
	address string
	args    []string
	log     string
	cmd     *exec.Cmd
}

// startServer starts a server with the program and the arguments that it is
// called with.
func (w *world) startServer(address string, args ...string) *server {
	s := &server{address: address, args: args, log: filepath.Join(w.dir, filepath.Base(args[0])+".log")}
	s.start()
	w.cleanup(s.kill)
	return s
}

func (s *server) start() {
	output, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(err)
	defer output.Close()
	s.cmd = exec.CommandContext(context.Background(), s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = output, output
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // should this process die
	check(s.cmd.Start())
	await(s.address, nil)
}

func (s *server) kill() {
	if s == nil || s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

func startRedis(w *world) usedLock {
	address := freeAddress()
	s := w.startServer(address, "redis-server", "--bind", "127.0.0.1", "--port", portOf(address), "--save", "", "--dir", w.dir)
	return usedLock{lock: "redis 10s 1m {\naddress " + address + "\n}", outage: s.outage}
}

func startEtcd(w *world) usedLock {
	address, peers := freeAddress(), "http://"+freeAddress()
	s := w.startServer(address, "etcd", "--data-dir", filepath.Join(w.dir, "etcd"),
		"--listen-client-urls", "http://"+address, "--advertise-client-urls", "http://"+address,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers)
	return usedLock{lock: "etcd 10s 1m {\nendpoints " + address + "\n}", outage: s.outage}
}

// outage kills the server until the returned function is called. What it keeps
// in memory only, it forgets.
func (s *server) outage() (back func()) {
	s.kill()
	return s.start
}

func portOf(address string) string {
	_, port, err := net.SplitHostPort(address)
	check(err)
	return port
}
