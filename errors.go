// SPDX-License-Identifier: MPL-2.0

package fuuffy

import "errors"

// userError is the caller's mistake. Its text says how to fix it; <mount> in it stands
// for the mount's path.
type userError string

func (e userError) Error() string { return string(e) }

// refusedStep is a userError that does not fit the state of the rotation. Its text says
// why; what to do instead is the next step in that state.
type refusedStep string

func (e refusedStep) Error() string { return string(e) }

var errNotConfigured = errors.New("not configured")

// explainedError puts what a failure means for what the user wanted in front of it.
type explainedError struct {
	meaning string
	// advice says what to do, if the usual advice for the cause is of no use here.
	advice string
	// inState is set if the next step in the state of the rotation follows from it.
	inState bool
	cause   error
}

func (e *explainedError) Error() string { return e.meaning + " " + e.cause.Error() }

func (e *explainedError) Unwrap() error { return e.cause }
