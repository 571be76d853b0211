-- READ CLOCK: the clock in ms since the epoch, as every script sees it.

return (now())
