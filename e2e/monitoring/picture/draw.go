// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// The places of all there is, in pixels.
const (
	width, height = 980, 540
	// left and right are where the time begins and ends.
	left, right = 196, 952

	labelsTop                  = 96
	servedTop, servedBottom    = 144, 254
	holdOffTop, holdOffBottom  = 282, 338
	obtainedAt, rejectedAt     = 368, 388
	rotationTop, alarmTop      = 416, 452
	bandHeight, bottom         = 18, 492
	mostServed, longestHoldOff = 16, 60 // seconds
)

const (
	ink, muted, grid = "#1f2933", "#616e7c", "#e4e7eb"
	blue, lightBlue  = "#2b6cb0", "#dbeafe"
	red, lightRed    = "#c53030", "#fde2e2"
	green, orange    = "#2f855a", "#dd6b20"
	plain            = "#f3f5f7"
)

// rotationColors are in the order of the states.
var rotationColors = []struct{ state, color string }{{"idle", "#cbd5e0"}, {"staged", "#f6c343"}, {"promoted", "#f6ad55"}}

// picture is an SVG file that grows.
type picture struct{ bytes.Buffer }

// draw makes a picture with a background of its own, so that it can be read in a
// light page and in a dark one.
func draw(d *day) []byte {
	p := &picture{}
	p.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="12">`, width, height)
	p.add(`<rect width="%d" height="%d" rx="8" fill="#ffffff"/>`, width, height)
	p.add(`<text x="24" y="36" font-size="19" font-weight="600" fill="%s">A day in five minutes</text>`, ink)
	p.text(24, 58, muted, "start", "Drawn from what Prometheus scraped while a sandbox stood for Fuuffy. Apps read, and come back when Vault says so.")
	p.text(24, 74, muted, "start", fmt.Sprintf("Tokens live for %d seconds instead of an hour, and Fuuffy gave %d of them: about as many as in a day.", int(tokenLife.Seconds()), len(d.requests["ok"])))

	lapsed := without(d.served)
	for _, s := range lapsed {
		p.add(`<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`, x(s.from), servedTop, x(s.to)-x(s.from), bottom-servedTop, lightRed)
	}
	p.time()
	p.operator()
	p.curve("Token", "seconds that it is served", d.served, servedTop, servedBottom, mostServed, []float64{0, 5, 10, 15}, blue, lightBlue)
	for _, s := range lapsed {
		p.text((x(s.from)+x(s.to))/2, servedTop+56, red, "middle", "no token:")
		p.text((x(s.from)+x(s.to))/2, servedTop+72, red, "middle", "apps get errors")
	}
	p.curve("Hold-off", "seconds that it lasts", d.holdOff, holdOffTop, holdOffBottom, longestHoldOff, []float64{0, 30, 60}, orange, "none")
	p.requests(d)
	p.title(rotationTop+13, "Rotation", "")
	for _, c := range rotationColors {
		for _, s := range d.rotation[c.state] {
			p.band(s, rotationTop, c.color, ink, c.state)
		}
	}
	p.title(alarmTop+13, "Alert", "FuuffyAuthenticationFailures")
	p.band(span{0, length}, alarmTop, plain, muted, "")
	for _, s := range d.alarm {
		p.band(s, alarmTop, red, "#ffffff", "firing")
	}
	p.add(`</svg>`)
	return p.Bytes()
}

func (p *picture) add(format string, values ...any) { fmt.Fprintf(p, format+"\n", values...) }

func (p *picture) text(x, y float64, color, anchor, text string) {
	p.add(`<text x="%.1f" y="%.1f" fill="%s" text-anchor="%s">%s</text>`, x, y, color, anchor, text)
}

// title names a panel, on its left.
func (p *picture) title(y float64, name, unit string) {
	p.add(`<text x="24" y="%.1f" fill="%s" font-weight="600">%s</text>`, y, ink, name)
	p.add(`<text x="24" y="%.1f" fill="%s" font-size="11">%s</text>`, y+15, muted, unit)
}

// x is the place of a time.
func x(at time.Duration) float64 {
	return left + (right-left)*float64(min(max(at, 0), length))/float64(length)
}

// band is a state that lasted, with its name.
func (p *picture) band(s span, top float64, color, textColor, name string) {
	from, to := x(s.from), x(s.to)
	p.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>`, from, top, to-from, bandHeight, color)
	p.text((from+to)/2, top+13, textColor, "middle", name)
}

// time draws the axis.
func (p *picture) time() {
	p.text(24, bottom+18, muted, "start", "minutes")
	for at := time.Duration(0); at <= length; at += 30 * time.Second {
		p.add(`<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="%s"/>`, x(at), x(at), servedTop, bottom, grid)
		p.text(x(at), bottom+18, muted, "middle", clock(at))
	}
}

// operator marks what people do. The labels take turns in two rows.
func (p *picture) operator() {
	p.title(labelsTop+14, "What people do", "")
	for i, s := range steps {
		row := float64(labelsTop + 14 + 18*(i%2))
		p.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%d" stroke="%s" stroke-dasharray="3 3"/>`, x(s.at), x(s.at), row-10, bottom, muted)
		p.text(x(s.at)+5, row, ink, "start", s.label)
	}
}

// curve draws a panel with values from 0 to most.
func (p *picture) curve(name, unit string, values []point, top, below, most float64, scale []float64, color, fill string) {
	p.title(top+14, name, unit)
	y := func(value float64) float64 { return below - (below-top)*min(max(value, 0), most)/most }
	for _, v := range scale {
		p.add(`<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="%s"/>`, left, right, y(v), y(v), grid)
		p.text(left-8, y(v)+4, muted, "end", fmt.Sprint(v))
	}
	var line strings.Builder
	for _, v := range values {
		fmt.Fprintf(&line, "%.1f,%.1f ", x(v.at), y(v.value))
	}
	first, last := values[0], values[len(values)-1]
	p.add(`<polygon points="%.1f,%.1f %s%.1f,%.1f" fill="%s" fill-opacity="0.6"/>`, x(first.at), below, line.String(), x(last.at), below, fill)
	p.add(`<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`, line.String(), color)
}

// requests draws a mark for each token request.
func (p *picture) requests(d *day) {
	p.title(obtainedAt+4, "Token requests", "")
	for _, row := range []struct {
		y              float64
		outcome, label string
		color          string
	}{{obtainedAt, "ok", "a token", green}, {rejectedAt, "rejected", "rejected", red}} {
		p.text(left-8, row.y+4, row.color, "end", row.label)
		for _, at := range d.requests[row.outcome] {
			p.add(`<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`, x(at), row.y, row.color)
		}
	}
	rejected := d.requests["rejected"]
	p.text(x(rejected[len(rejected)-1])+9, rejectedAt+4, muted, "start", "the old one is dead")
}

// without returns when no token was served.
func without(served []point) []span {
	var lapsed []point
	for _, s := range served {
		if s.value <= 0 {
			lapsed = append(lapsed, s)
		}
	}
	return spans(lapsed)
}
