// The health scripts of docs/gitops.md, executed as they stand there.
//
//	epic-health DOCS
//
// Argo CD runs the Lua script with gopher-lua, Flux the CEL expressions with its own evaluator; both are run here the
// same way, for every kind and every situation of docs/conditions.md, and have to come to the same verdict. What the
// document says of kstatus is asked of kstatus. Prints each verdict that differs, and how many were asked for.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// What a tool should make of an object.
type verdict string

const (
	serves  verdict = "serves"
	waits   verdict = "waits"
	refused verdict = "refused"
)

var kinds = []string{"EPIC", "Account", "AddressPool", "ServiceGroup", "LoadBalancer", "Endpoint"}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: epic-health DOCS")
		os.Exit(2)
	}
	complaints, count, err := run(os.Args[1])
	if err != nil {
		complaints = append(complaints, err.Error())
	}
	for _, complaint := range complaints {
		fmt.Fprintln(os.Stderr, "health:", complaint)
	}
	if len(complaints) > 0 {
		os.Exit(1)
	}
	fmt.Println(count, "verdicts")
}

func run(docs string) (complaints []string, count int, err error) {
	guide, err := os.ReadFile(filepath.Join(docs, "gitops.md"))
	if err != nil {
		return nil, 0, err
	}
	table, err := os.ReadFile(filepath.Join(docs, "conditions.md"))
	if err != nil {
		return nil, 0, err
	}
	script, err := fence(string(guide), "lua")
	if err != nil {
		return nil, 0, err
	}
	kustomization, err := fence(string(guide), "yml")
	if err != nil {
		return nil, 0, err
	}
	checks, err := healthChecks(kustomization)
	if err != nil {
		return nil, 0, err
	}
	complaints = append(namesEveryKind(string(guide)), sameReasons(docs, script, kustomization)...)
	complain := func(tool string, one situation, found any, err error) {
		words := fmt.Sprintf("%v", found)
		if err != nil {
			words = err.Error()
		}
		complaints = append(complaints, fmt.Sprintf("%s: %s %q: %s, expected is: %s", tool, one.kind, one.name, words, one.expected))
	}

	situations, err := ofTable(string(table))
	if err != nil {
		return complaints, 0, err
	}
	for _, kind := range kinds {
		situations = append(situations, ofEveryKind(kind)...)
	}
	for _, one := range situations {
		if found, err := argo(script, one.object()); err != nil || found != one.expected {
			complain("Argo CD", one, found, err)
		}
		if found, err := flux(checks, one.object()); err != nil || found != one.expected {
			complain("Flux", one, found, err)
		}
		count += 2
	}
	for _, one := range ofKstatus() {
		if found, err := kstatus(one.object()); err != nil || found != one.expected {
			complain("kstatus", one, found, err)
		}
		count++
	}
	return complaints, count, nil
}

// The one fenced block of this language.
func fence(text, language string) (string, error) {
	found := regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1)
	if len(found) != 1 {
		return "", fmt.Errorf("docs/gitops.md has %d blocks of %s, expected is one", len(found), language)
	}
	return found[0][1], nil
}

func namesEveryKind(guide string) (complaints []string) {
	for _, kind := range kinds {
		if !strings.Contains(guide, "`"+kind+"`") {
			complaints = append(complaints, "docs/gitops.md does not say that the scripts are for "+kind)
		}
	}
	return complaints
}

// Both scripts forgive the same reasons, and each is one that a kind has.
func sameReasons(docs, script, expressions string) (complaints []string) {
	reason := regexp.MustCompile(`\b[A-Z][A-Za-z]+Not[A-Z][a-z]+\b`)
	names := func(text string) []string {
		found := reason.FindAllString(text, -1)
		slices.Sort(found)
		return slices.Compact(found)
	}
	if lua, cel := names(script), names(expressions); !slices.Equal(lua, cel) {
		complaints = append(complaints, fmt.Sprintf("the Lua script names %v, the expressions name %v", lua, cel))
	}
	var reference strings.Builder
	files, _ := filepath.Glob(filepath.Join(docs, "reference", "*.md"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return append(complaints, err.Error())
		}
		reference.Write(text)
	}
	for _, name := range names(script) {
		if !strings.Contains(reference.String(), "| `"+name+"` |") {
			complaints = append(complaints, "no kind has reason "+name)
		}
	}
	return complaints
}
