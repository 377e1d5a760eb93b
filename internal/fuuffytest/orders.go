// SPDX-License-Identifier: MPL-2.0

package fuuffytest

import (
	"net/http"
	"slices"
	"strings"
)

type shipment struct {
	ID             string    `json:"id"`
	Status         string    `json:"status"`
	Courier        string    `json:"courier"`
	TrackingNumber string    `json:"tracking_number"`
	Recipient      recipient `json:"recipient"`
	WeightKg       float64   `json:"weight_kg"`
}

type recipient struct {
	Name    string `json:"name"`
	City    string `json:"city"`
	Country string `json:"country"`
}

// shipments are the orders of every account of the sandbox.
var shipments = []shipment{
	{"FF-100231", "in_transit", "DHL Express", "4820193375", recipient{"Mei Chan", "Hong Kong", "HK"}, 1.2},
	{"FF-100232", "delivered", "SF Express", "SF1403382291740", recipient{"Jonas Weber", "Berlin", "DE"}, 0.45},
	{"FF-100233", "label_created", "FedEx", "794658120043", recipient{"Aiko Tanaka", "Osaka", "JP"}, 3.8},
}

// serveOrders answers a request for orders, or lets a fault answer it.
func (s *Sandbox) serveOrders(w http.ResponseWriter, r *http.Request) {
	normal := func() answer { return s.answerOrders(r) }
	s.takeFault(OnOrders, s.ClientOf(bearer(r))).serve(w, r, normal)
}

// bearer returns the token in a request, or the empty string.
func bearer(r *http.Request) string {
	scheme, accessToken, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return accessToken
}

// ClientOf returns the ID of the token's client, or the empty string if no client has it.
func (s *Sandbox) ClientOf(accessToken string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens[accessToken].clientID
}

// answerOrders answers /orders and /order if the request has a live token.
func (s *Sandbox) answerOrders(r *http.Request) answer {
	if !s.authorized(r) {
		return refuse(http.StatusUnauthorized, errInvalidToken)
	}
	if r.URL.Path == ordersPath {
		return succeed(map[string][]shipment{"orders": shipments})
	}
	id := r.URL.Query().Get("id")
	if id == "" {
		return missingField("id")
	}
	i := slices.IndexFunc(shipments, func(o shipment) bool { return o.ID == id })
	if i < 0 {
		return refuse(http.StatusNotFound, standardError(http.StatusNotFound))
	}
	return succeed(map[string]shipment{"order": shipments[i]})
}

// authorized reports whether the request has a live token, and counts the requests that don't.
func (s *Sandbox) authorized(r *http.Request) bool {
	accessToken := bearer(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alive(accessToken) {
		return true
	}
	s.stats.OrderRejections++
	return false
}
