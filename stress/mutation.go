package main

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// mutations are faults that a profile is to find: patches to the handler, one
// file each, by the profile.
//
//go:embed mutations/*/*.patch
var mutations embed.FS

func mutationNames() []string {
	files, err := fs.Glob(mutations, "mutations/*/*.patch")
	check(err)
	names := make([]string, 0, len(files))
	for _, file := range files {
		names = append(names, strings.TrimSuffix(strings.TrimPrefix(file, "mutations/"), ".patch"))
	}
	return names
}

// buildMutation builds this program with a patched handler, and returns where it
// is. It runs in the directory of this package.
func buildMutation(name, dir string) (binary string, err error) {
	patch, err := mutations.ReadFile("mutations/" + name + ".patch")
	if err != nil {
		return "", fmt.Errorf("invalid mutation %q: must be one of %s", name, strings.Join(mutationNames(), ", "))
	}
	_, after, _ := strings.Cut(string(patch), "\n+++ b/")
	file, _, _ := strings.Cut(after, "\n")
	original, err := filepath.Abs(filepath.Join("..", file))
	if err != nil {
		return "", err
	}
	patched := filepath.Join(dir, "mutated.go")
	apply := exec.Command("patch", "--silent", "--fuzz=2", "--output", patched, original)
	apply.Stdin = strings.NewReader(string(patch))
	if out, err := apply.CombinedOutput(); err != nil {
		return "", fmt.Errorf("mutation %s does not fit the handler: %w: %s", name, err, out)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: patched}})
	if err != nil {
		return "", err
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		return "", err
	}
	binary = filepath.Join(dir, "mutated")
	build := exec.Command("go", "build", "-overlay", overlayFile, "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building mutation %s: %w: %s", name, err, out)
	}
	return binary, nil
}
