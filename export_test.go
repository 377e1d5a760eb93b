// SPDX-License-Identifier: MPL-2.0

package fuuffy

import (
	"maps"
	"slices"
)

// What tests of values look into. All others use the engine from outside.
var (
	ReadCACert    = readCACert
	CheckBaseURL  = checkBaseURL
	CheckText     = checkText
	LowerCaseHost = lowerCaseHost
	ConfigFields  = slices.Collect(maps.Keys(configFields))
)

const MaxTextLength = maxTextLength
