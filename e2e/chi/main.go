// Command chi is a products API on the chi router. With TAGS=own it has tags
// made from version numbers, and checks If-Match itself.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-chi/chi/v5"
)

type product struct {
	ID      int     `json:"id"`
	Name    string  `json:"name"`
	Price   float64 `json:"price"`
	version int
}

func (p product) tag() string { return fmt.Sprintf(`"%d-%d"`, p.ID, p.version) }

var (
	ownTags = os.Getenv("TAGS") == "own"

	mu       sync.Mutex // held for the whole of a request
	products []*product
	lastID   int
)

func main() {
	r := chi.NewRouter()
	r.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			next.ServeHTTP(w, r)
		})
	})
	r.Get("/products", func(w http.ResponseWriter, _ *http.Request) { send(w, http.StatusOK, products) })
	r.Post("/products", create)
	r.Route("/products/{id}", func(r chi.Router) {
		r.Use(find)
		r.Get("/", func(w http.ResponseWriter, r *http.Request) { sendProduct(w, of(r)) })
		r.Put("/", change)
		r.Patch("/", change)
		r.Delete("/", remove)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), r))
}

type productKey struct{}

func of(r *http.Request) *product { return r.Context().Value(productKey{}).(*product) }

// find finds the product that a request is for, and checks If-Match if the
// tags are its own.
func find(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := strconv.Atoi(chi.URLParam(r, "id"))
		i := slices.IndexFunc(products, func(p *product) bool { return p.ID == id })
		if i < 0 {
			http.Error(w, "no such product", http.StatusNotFound)
			return
		}
		p := products[i]
		match := strings.Split(r.Header.Get("If-Match"), ", ")
		if ownTags && match[0] != "" && match[0] != "*" && !slices.Contains(match, p.tag()) {
			http.Error(w, "the product has another version", http.StatusPreconditionFailed)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), productKey{}, p)))
	})
}

func create(w http.ResponseWriter, r *http.Request) {
	p := new(product)
	if !read(w, r, p) {
		return
	}
	lastID++
	p.ID = lastID
	products = append(products, p)
	send(w, http.StatusCreated, p)
}

func change(w http.ResponseWriter, r *http.Request) {
	p := of(r)
	changed := *p
	if read(w, r, &changed) {
		changed.ID, changed.version = p.ID, p.version+1
		*p = changed
		sendProduct(w, p)
	}
}

func remove(w http.ResponseWriter, r *http.Request) {
	p := of(r)
	products = slices.DeleteFunc(products, func(other *product) bool { return other == p })
	w.WriteHeader(http.StatusNoContent)
}

func read(w http.ResponseWriter, r *http.Request, p *product) bool {
	if err := json.NewDecoder(r.Body).Decode(p); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func sendProduct(w http.ResponseWriter, p *product) {
	if ownTags {
		w.Header().Set("ETag", p.tag())
	}
	send(w, http.StatusOK, p)
}

func send(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		log.Print(err)
	}
}
