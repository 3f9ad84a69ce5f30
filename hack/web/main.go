// Command web is the tenants' application in the lab: an HTTP server that says who answered and whom it saw.
//
// Every answer is one JSON object with the identity given on the command line, so a test can tell a right answer from
// a wrong tenant's, and the peer's address, so it can tell which proxy asked. It is small on purpose: it must cost
// less than the path that is measured with it.
//
//	web -host client1 -address 10.244.1.5 -tenant sample -port 8080 [-port 8081]
//	GET  /…             the identity
//	GET  /bytes/N       N bytes, for throughput and segment sizes
//	POST /…             the identity and how many bytes came
//	GET  /wait/MS       the identity after so many milliseconds, for connections that outlive a change
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type answer struct {
	Host     string `json:"host"`
	Address  string `json:"address"`
	Tenant   string `json:"tenant"`
	Port     string `json:"port"`
	Peer     string `json:"peer"`
	Path     string `json:"path"`
	Received int64  `json:"received"`
}

type ports []string

func (p *ports) String() string { return strings.Join(*p, ",") }

func (p *ports) Set(value string) error {
	*p = append(*p, value)
	return nil
}

// zeroes is an endless body.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func main() {
	var identity answer
	var listen ports
	flag.StringVar(&identity.Host, "host", "", "the host this runs on")
	flag.StringVar(&identity.Address, "address", "", "the pod address")
	flag.StringVar(&identity.Tenant, "tenant", "", "whose application this is")
	flag.Var(&listen, "port", "TCP port to listen on; may be given several times")
	flag.Parse()

	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	failed := make(chan error, len(listen))
	for _, port := range listen {
		own := identity
		own.Port = port
		server := &http.Server{Addr: net.JoinHostPort("", port), Handler: handler(own), ReadHeaderTimeout: 30 * time.Second}
		go func() { failed <- server.ListenAndServe() }()
	}
	select {
	case <-stop.Done():
	case err := <-failed:
		if !errors.Is(err, http.ErrServerClosed) {
			log.Print(err)
			os.Exit(1)
		}
	}
}

func handler(identity answer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if count, found := strings.CutPrefix(r.URL.Path, "/bytes/"); found {
			n, err := strconv.ParseInt(count, 10, 64)
			if err != nil || n < 0 {
				http.Error(w, "bytes wants a number", http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Length", count)
			w.Header().Set("X-Epic-Answered-By", fmt.Sprintf("%s %s %s", identity.Tenant, identity.Host, identity.Address))
			_, _ = io.CopyN(w, zeroes{}, n)
			return
		}
		if delay, found := strings.CutPrefix(r.URL.Path, "/wait/"); found {
			ms, err := strconv.Atoi(delay)
			if err != nil || ms < 0 || ms > 600_000 {
				http.Error(w, "wait wants milliseconds, at most 600000", http.StatusBadRequest)
				return
			}
			time.Sleep(time.Duration(ms) * time.Millisecond)
		}
		own := identity
		own.Peer = r.RemoteAddr
		own.Path = r.URL.Path
		own.Received, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(own)
	})
}
