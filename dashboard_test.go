package etag

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	seriesInQuery  = regexp.MustCompile(`caddy_[a-z_]+`)
	matcherInQuery = regexp.MustCompile(`([a-z_]+)\s*=~?\s*"([^"]*)"`)
	groupingLabels = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// dashboardQueries returns the queries of the dashboard and of the alerts.
func dashboardQueries(t *testing.T) (queries []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("examples", "grafana", "dashboard.json"))
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			Title, Description string
			Targets            []struct{ Expr string }
			FieldConfig        struct {
				Defaults struct{ Unit, NoValue string }
			}
		}
		Templating struct{ List []struct{ Definition string } }
	}
	require.NoError(t, json.Unmarshal(text, &dashboard))
	for _, panel := range dashboard.Panels {
		require.NotEmpty(t, panel.Title)
		require.NotEmpty(t, panel.Description, panel.Title)
		require.NotEmpty(t, panel.FieldConfig.Defaults.Unit, panel.Title)
		require.NotEmpty(t, panel.FieldConfig.Defaults.NoValue, "%s, where there is no traffic", panel.Title)
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			queries = append(queries, target.Expr)
		}
	}
	for _, variable := range dashboard.Templating.List {
		if variable.Definition != "" { // else it is the data source
			queries = append(queries, variable.Definition)
		}
	}

	alerts, err := os.ReadFile(filepath.Join("examples", "grafana", "alerts.yml"))
	require.NoError(t, err)
	for rule := range strings.SplitSeq(string(alerts), "- alert:") {
		if _, query, found := strings.Cut(rule, "expr: "); found {
			query, _, _ = strings.Cut(query, "labels:")
			queries = append(queries, query)
		}
	}
	return queries
}

// TestDashboardShowsWhatThereIs: each series, label and outcome in the files
// for Grafana and Prometheus is one that a Caddy with the module offers, and
// none that it offers is left out.
func TestDashboardShowsWhatThereIs(t *testing.T) {
	s := newStore(maps.Clone(oneDoc))
	url := startCaddy(t, metricsSite(s.start(t)))
	client := clientFor(t, "h1", nil)
	do(t, client, http.MethodGet, url+"/doc", "")
	do(t, client, http.MethodGet, url+"/doc", "", "If-None-Match", oneTag)
	do(t, client, http.MethodPut, url+"/doc", "x", "If-Match", `"x"`)
	do(t, client, http.MethodPatch, url+"/doc", "x")
	do(t, client, http.MethodPut, url+"/doc", "x")
	outcomes := []string{outcomeTagged, outcomeKept, outcomeNotModified, outcomeFailed, outcomeBypassed, outcomePassed, outcomeRequired, outcomeLockedOut, outcomeTimedOut, outcomeError}
	known := map[string][]string{"outcome": outcomes, "kind": {kindRead, kindWrite}, "reason": {""}}
	for _, cases := range [][]provoked{provokedReads, provokedWrites} {
		for _, p := range cases {
			known["reason"] = append(known["reason"], string(p.reason))
		}
	}

	offered := make(map[string]map[string]bool) // the labels of each series
	for line := range strings.Lines(get(t, url+"/metrics").body) {
		name := seriesInQuery.FindString(line)
		if !strings.HasPrefix(line, "caddy_http_etag_") {
			continue
		}
		if offered[name] == nil {
			offered[name] = map[string]bool{"instance": true, "job": true} // which Prometheus adds
		}
		for _, label := range matcherInQuery.FindAllStringSubmatch(line, -1) {
			offered[name][label[1]] = true
			if words, ok := known[label[1]]; ok {
				require.Contains(t, words, label[2])
			}
		}
	}
	require.Len(t, offered, 7)

	shown := make(map[string]bool)
	queries := dashboardQueries(t)
	require.Greater(t, len(queries), 15)
	for _, query := range queries {
		require.Equal(t, strings.Count(query, "("), strings.Count(query, ")"), query)
		require.Equal(t, strings.Count(query, "{"), strings.Count(query, "}"), query)
		names := seriesInQuery.FindAllString(query, -1)
		require.NotEmpty(t, names, query)
		for _, name := range names {
			require.Contains(t, offered, name, query)
			shown[name] = true
		}
		var labels []string
		for _, matcher := range matcherInQuery.FindAllStringSubmatch(query, -1) {
			labels = append(labels, matcher[1])
			if words, ok := known[matcher[1]]; ok {
				for word := range strings.SplitSeq(matcher[2], "|") {
					require.Contains(t, words, word, query)
				}
			}
		}
		for _, grouping := range groupingLabels.FindAllStringSubmatch(query, -1) {
			labels = append(labels, strings.Split(grouping[1], ", ")...)
		}
		for _, label := range labels {
			require.True(t, slices.ContainsFunc(names, func(name string) bool { return offered[name][label] }), "%s in %s", label, query)
		}
	}
	for name := range offered {
		require.True(t, shown[name], "%s is on no panel", name)
	}
}
