package history

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Report writes a history that is illegal to a file, in words, and beside it a
// page that shows it. Notes are lines to go with it.
func Report(file string, operations []Operation, initial, notes []string) error {
	var text strings.Builder
	text.WriteString("No order of these operations explains their answers.\n")
	if len(initial) == 1 {
		text.WriteString("The document did not exist before.\n")
	} else {
		text.WriteString("The document may have been anything before.\n")
	}
	fmt.Fprintf(&text, "\n%12s %12s %6s  %s\n", "from", "to", "client", "")
	var start int64
	if len(operations) > 0 {
		start = operations[0].Call
	}
	for _, op := range operations {
		end := "?"
		if op.Return != Never {
			end = time.Duration(op.Return - start).Round(time.Microsecond).String()
		}
		fmt.Fprintf(&text, "%12s %12s %6d  %s\n", time.Duration(op.Call-start).Round(time.Microsecond), end, op.Client, op)
	}
	for _, note := range notes {
		text.WriteString("\n" + note)
	}
	text.WriteString("\n")
	if err := os.WriteFile(file+".txt", []byte(text.String()), 0o600); err != nil {
		return err
	}

	of := model(initial...)
	_, info := porcupine.CheckOperationsVerbose(of, forPorcupine(withEnds(operations)), 10*time.Second)
	return porcupine.VisualizePath(of, info, file+".html")
}
