// SPDX-License-Identifier: MPL-2.0

//go:build race

package advice

// raceDetector makes the walk smaller: it is one goroutine, so the detector only slows it down.
const raceDetector = true
