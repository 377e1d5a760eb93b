// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"errors"
	"runtime/debug"
	"time"
)

// Nothing here runs under a lock: a log can be slow, or read the mount.

// logOutcome logs a change of state, not each attempt.
func (c *Cache) logOutcome(before, after holdOff, now Instant) {
	switch {
	case before.cause != nil && after.cause == nil && !after.since.IsZero():
		c.options.Logger().Info("Fuuffy issues tokens again", "failures", before.failures)
	case after.cause != nil && (before.cause == nil || before.cause.Failure != after.cause.Failure):
		c.options.Logger().Warn("Fuuffy issues no token", "failure", after.cause.Failure, "error", after.cause,
			"next_try_in", after.left(now).Truncate(time.Second).String())
	}
}

// logUnsaved logs why a token is only in memory.
func (c *Cache) logUnsaved(err error) {
	c.logPanic(err)
	if err != nil {
		c.options.Logger().Warn("could not save the access token; it is served from memory and lost on a restart", "error", err)
	}
}

// logUnreadable logs why the cache can't use a stored token. It requests another.
func (c *Cache) logUnreadable(err error) {
	c.logPanic(err)
	if err != nil {
		c.options.Logger().Warn("could not use the stored access token", "error", err)
	}
}

// logLeftover logs that a reported token is still in storage.
func (c *Cache) logLeftover(err error) {
	if err != nil {
		c.options.Logger().Warn("could not remove the rejected access token from storage; a restart brings it back", "error", err)
	}
}

// logUnloadable logs why the former configuration goes on.
func (c *Cache) logUnloadable(err error) {
	c.logPanic(err)
	c.options.Logger().Warn("could not load the configuration; the former one stays in use until that works", "error", err)
}

// logPanic logs where a panic happened, if one did.
func (c *Cache) logPanic(err error) {
	if p, ok := errors.AsType[*panicError](err); ok {
		c.options.Logger().Error(p.Error(), "stack", p.stack)
	}
}

// panicError keeps where a panic happened for the log.
type panicError struct{ what, stack string }

func (e *panicError) Error() string { return "panic in a " + e.what }

// guarded is guard for what returns an error.
func guarded(what string, do func() error) (err error) {
	if panicked := guard(what, func() { err = do() }); panicked != nil {
		return panicked
	}
	return err
}

// guard turns a panic into an error, because the process serves other mounts too. A panic's
// value may quote a secret, so guard only keeps the place.
func guard(what string, do func()) (err error) {
	defer func() {
		if recover() != nil {
			err = &panicError{what, string(debug.Stack())}
		}
	}()
	do()
	return nil
}
