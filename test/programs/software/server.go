// SPDX-License-Identifier: Apache-2.0
// A server for test/lib/ferrytest/software/golang.py: many goroutines with small stacks, timers, a map in memory.
package main

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const keys, workers = 20000, 500

var ticks, requests int64

func values() map[int][32]byte {
	found := make(map[int][32]byte, keys)
	for key := 0; key < keys; key++ {
		found[key] = sha256.Sum256([]byte(fmt.Sprint(key)))
	}
	return found
}

// ring passes a token round and round.
func ring() {
	first := make(chan int64)
	in := first
	for n := 0; n < workers; n++ {
		out := make(chan int64)
		go func(in, out chan int64) {
			for token := range in {
				out <- token + 1
			}
		}(in, out)
		in = out
	}
	go func() {
		first <- 0
		for token := range in {
			if token%workers != 0 {
				panic("a goroutine was left out")
			}
			atomic.AddInt64(&ticks, 1)
			time.Sleep(time.Millisecond)
			first <- token
		}
	}()
}

func main() {
	var lock sync.Mutex
	table := values()
	ring()
	answer := func(path string, text func() string) {
		http.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, text()) })
	}
	answer("/map", func() string {
		lock.Lock()
		defer lock.Unlock()
		hash := sha256.New()
		for key := 0; key < keys; key++ {
			value := table[key]
			hash.Write(value[:])
		}
		return fmt.Sprintf("%x", hash.Sum(nil))
	})
	answer("/count", func() string { return fmt.Sprint(atomic.AddInt64(&requests, 1)) })
	answer("/ticks", func() string { return fmt.Sprint(atomic.LoadInt64(&ticks)) })
	panic(http.ListenAndServe(os.Args[1]+":8096", nil))
}
