-- READ CLOCK: answers the clock in ms since the epoch.
--
-- Invariant: it is the clock that every script sees, and reading it changes nothing.

return (now())
