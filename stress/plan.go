package main

import (
	"encoding/json"
	"net/http"
	"time"
)

// planField carries what the backend is to do with a request.
const planField = "X-Plan"

// plan is what the backend is to do with a write, and with the GET by which the
// handler sees what is current. A fault is none if it is empty.
type plan struct {
	Get     string        `json:",omitempty"` // the fault of a GET: 502, die or hang
	At      float64       `json:",omitempty"` // where in the body it dies, as a part of that
	Chunked bool          `json:",omitempty"` // a body without Content-Length
	Looking time.Duration `json:",omitempty"` // before a GET is answered
	Showing time.Duration `json:",omitempty"` // between the look at the document and the answer
	Write   string        `json:",omitempty"` // the fault of a write: 502, die, cut, stored502, storedDie or storedCut
	Before  time.Duration `json:",omitempty"` // a write is stored
	After   time.Duration `json:",omitempty"` // it is stored, and before the answer
}

func (p plan) set(header http.Header) {
	if text, _ := json.Marshal(p); len(text) > 2 {
		header.Set(planField, string(text))
	}
}

func planOf(r *http.Request) (p plan) {
	_ = json.Unmarshal([]byte(r.Header.Get(planField)), &p)
	return p
}
