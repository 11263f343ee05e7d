package jcs

import (
	"fmt"
	"strings"
)

// Pointers is a set of JSON Pointers (RFC 6901) to members and elements that
// are to be ignored. It is a tree, by their reference tokens.
type Pointers struct {
	children map[string]*Pointers
	any      *Pointers // for the token *
	ignored  bool      // a pointer ends here
}

// anyToken in a pointer stands for any one token.
const anyToken = "*"

// ParsePointers returns the set of some pointers, in which the token * stands
// for any one. An error begins with the pointer that is none.
func ParsePointers(pointers []string) (*Pointers, error) {
	root := new(Pointers)
	for _, pointer := range pointers {
		tokens, err := parsePointer(pointer)
		if err != nil {
			return nil, err
		}
		tree := root
		for _, token := range tokens {
			tree = tree.child(token)
		}
		tree.ignored = true
	}
	return root, nil
}

// child returns the subtree for a token, which it makes if need be.
func (t *Pointers) child(token string) *Pointers {
	if token == anyToken {
		if t.any == nil {
			t.any = new(Pointers)
		}
		return t.any
	}
	if t.children == nil {
		t.children = make(map[string]*Pointers)
	}
	if t.children[token] == nil {
		t.children[token] = new(Pointers)
	}
	return t.children[token]
}

// parsePointer returns the reference tokens of a JSON Pointer (RFC 6901 §3).
// That of the whole document is none that could be ignored.
func parsePointer(pointer string) ([]string, error) {
	if !strings.HasPrefix(pointer, "/") {
		return nil, fmt.Errorf("%q: must be a JSON Pointer to a member, such as /generated_at or /items/*/views", pointer)
	}
	tokens := strings.Split(pointer[1:], "/")
	for i, token := range tokens {
		for j := strings.IndexByte(token, '~'); j >= 0; {
			if j+1 == len(token) || token[j+1] != '0' && token[j+1] != '1' {
				return nil, fmt.Errorf("%q: a ~ must be written as ~0 and a / in a name as ~1", pointer)
			}
			next := strings.IndexByte(token[j+1:], '~')
			if next < 0 {
				break
			}
			j += 1 + next
		}
		tokens[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
	}
	return tokens, nil
}
