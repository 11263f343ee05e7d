package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const (
	maxBody      = 64 << 10 // bytes of one document's JSON
	maxDocuments = 100
)

// document is what the API stores.
type document struct {
	ID     string `json:"id"`
	Title  string `json:"title"`
	Text   string `json:"text"`
	Author string `json:"author"` // who saved it last
}

// documents is an API for documents, kept in memory. It is what a backend is
// that was written without a thought of caches or of concurrent edits: whoever
// writes last wins. All that prevents it stands in front, in the Caddyfile.
type documents struct {
	mu   sync.Mutex
	byID map[string]document
	made int // ids that were given to new documents
}

// newDocuments returns the API with these documents.
func newDocuments(initial ...document) http.Handler {
	d := &documents{byID: make(map[string]document, len(initial))}
	for _, doc := range initial {
		d.byID[doc.ID] = doc
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/documents", d.list)
	mux.HandleFunc("GET /api/documents/{id}", d.read)
	mux.HandleFunc("POST /api/documents", d.add)
	mux.HandleFunc("PUT /api/documents/{id}", d.replace)
	mux.HandleFunc("PATCH /api/documents/{id}", d.change)
	mux.HandleFunc("DELETE /api/documents/{id}", d.remove)
	return mux
}

func (d *documents) list(w http.ResponseWriter, _ *http.Request) {
	type entry struct {
		ID    string `json:"id"`
		Title string `json:"title"`
	}
	d.mu.Lock()
	entries := make([]entry, 0, len(d.byID))
	for _, doc := range d.byID {
		entries = append(entries, entry{doc.ID, doc.Title})
	}
	d.mu.Unlock()
	// In an order of its own a map is another text, with another tag, each
	// time it is asked for.
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.ID, b.ID) })
	sendJSON(w, http.StatusOK, entries)
}

func (d *documents) read(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	doc, ok := d.byID[r.PathValue("id")]
	d.mu.Unlock()
	if !ok {
		sendError(w, http.StatusNotFound, "there is no such document")
		return
	}
	sendJSON(w, http.StatusOK, doc)
}

func (d *documents) replace(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	doc, err := decodeDocument(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		sendError(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("a document can't have more than %d bytes", maxBody))
		return
	}
	if err != nil {
		sendError(w, http.StatusBadRequest, err.Error())
		return
	}
	if doc.ID != "" && doc.ID != id {
		sendError(w, http.StatusConflict, "a document can't change its id")
		return
	}
	doc.ID = id

	d.mu.Lock()
	_, known := d.byID[id]
	full := !known && len(d.byID) >= maxDocuments
	if !full {
		d.byID[id] = doc
	}
	d.mu.Unlock()
	if full {
		sendError(w, http.StatusInsufficientStorage, "there are too many documents")
		return
	}

	// With this field, the content of the answer is the representation that a
	// GET would now show (RFC 9110 §8.7), and a client need not ask for it.
	w.Header().Set("Content-Location", r.URL.Path)
	status := http.StatusOK
	if !known {
		status = http.StatusCreated
	}
	sendJSON(w, status, doc)
}

// add makes a document of an id that the server chooses.
func (d *documents) add(w http.ResponseWriter, r *http.Request) {
	doc, err := decodeDocument(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		sendError(w, http.StatusBadRequest, err.Error())
		return
	}
	d.mu.Lock()
	full := len(d.byID) >= maxDocuments
	for taken := true; taken && !full; _, taken = d.byID[doc.ID] {
		d.made++
		doc.ID = strconv.Itoa(d.made)
	}
	if !full {
		d.byID[doc.ID] = doc
	}
	d.mu.Unlock()
	if full {
		sendError(w, http.StatusInsufficientStorage, "there are too many documents")
		return
	}
	location := r.URL.Path + "/" + doc.ID
	w.Header().Set("Location", location)
	w.Header().Set("Content-Location", location)
	sendJSON(w, http.StatusCreated, doc)
}

// change takes a patch in the form of RFC 7396: members to set.
func (d *documents) change(w http.ResponseWriter, r *http.Request) {
	patch, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		sendError(w, http.StatusBadRequest, err.Error())
		return
	}
	id := r.PathValue("id")
	d.mu.Lock()
	defer d.mu.Unlock()
	doc, ok := d.byID[id]
	if !ok {
		sendError(w, http.StatusNotFound, "there is no such document")
		return
	}
	if err := json.Unmarshal(patch, &doc); err != nil || doc.ID != id {
		sendError(w, http.StatusBadRequest, "a patch sets the title, the text or the author")
		return
	}
	d.byID[id] = doc
	w.WriteHeader(http.StatusNoContent)
}

func decodeDocument(body io.Reader) (document, error) {
	var doc document
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return document{}, fmt.Errorf("reading the document: %w", err)
	}
	return doc, nil
}

func (d *documents) remove(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	d.mu.Lock()
	_, ok := d.byID[id]
	delete(d.byID, id)
	d.mu.Unlock()
	if !ok {
		sendError(w, http.StatusNotFound, "there is no such document")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func sendError(w http.ResponseWriter, status int, message string) {
	sendJSON(w, status, map[string]string{"error": message})
}

func sendJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(value) // the client has left if this fails
}
