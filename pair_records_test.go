// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/fuuffy/vault-plugin-secrets-fuuffy/internal/tokencache"
)

// Operators may mistype as many pairs as they like.
func TestPairRecordsStayFew(t *testing.T) {
	for _, kept := range []bool{false, true} {
		r := pairRecords{clock: tokencache.SystemClock}
		for i := range 10 * maxPairRecords {
			id := fmt.Sprint(i)
			r.noteLife(id, time.Hour)
			if kept {
				r.countRejection(id)
			}
			assert.LessOrEqual(t, len(r.pairs), maxPairRecords)
			assert.Equal(t, time.Hour, r.of(id).tokenLife)
		}
	}
}

// Even one rejection isn't forgotten.
func TestOtherPairsDisplaceNoRejection(t *testing.T) {
	r := pairRecords{clock: tokencache.SystemClock}
	r.countRejection("shop-1")
	for i := range 2 * maxPairRecords {
		r.noteLife(strconv.Itoa(i), time.Hour)
	}
	assert.Equal(t, 1, r.of("shop-1").rejections)
}
