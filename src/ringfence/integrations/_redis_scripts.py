"""The two calls that a shared log consists of, as scripts that the server runs as a whole."""

from __future__ import annotations

__all__ = ["APPEND", "READ"]

_OPEN = """
local state, log = KEYS[1], KEYS[2]
local epoch = redis.call('HGET', state, 'epoch')
if not epoch then
  epoch = ARGV[1]
  redis.call('DEL', log)
  redis.call('HSET', state, 'epoch', epoch, 'last', 0, 'bytes', 0)
end
local function keep()
  redis.call('PEXPIRE', state, ARGV[2])
  redis.call('PEXPIRE', log, ARGV[2])
end
"""

APPEND = (
    _OPEN
    + """
local max_events, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local record, to, nonce, bell, attempt = ARGV[5], ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local overhead = 100
if attempt > 0 then
  for _, entry in ipairs(redis.call('XREVRANGE', log, '+', '-')) do
    if entry[2][6] == nonce then
      redis.pcall('PUBLISH', bell, 0)
      return {epoch, tonumber(string.match(entry[1], '^%d+'))}
    end
  end
end
local length = redis.call('XLEN', log)
if length == 0 then redis.call('HSET', state, 'bytes', 0) end
local sequence = redis.call('HINCRBY', state, 'last', 1)
redis.call('XADD', log, sequence .. '-0', 'record', record, 'to', to, 'nonce', nonce)
local bytes = redis.call('HINCRBY', state, 'bytes', #record + overhead)
length = length + 1
while length > 1 and (length > max_events or bytes > max_bytes) do
  local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  length = length - 1
  redis.call('XTRIM', log, 'MAXLEN', length)
  bytes = redis.call('HINCRBY', state, 'bytes', -(#oldest[2][2] + overhead))
end
keep()
redis.pcall('PUBLISH', bell, sequence)
return {epoch, sequence}
"""
)
"""
Add one event and ring for it.

Ringing may fail, as where an ACL forbids the channel: the event is there all the same, and is
found by looking. `attempt` above 0 says that an earlier call may have done so already: then its
nonce is there.
"""

READ = (
    _OPEN
    + """
local limit = ARGV[5]
keep()
local last = tonumber(redis.call('HGET', state, 'last'))
local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
local first = last + 1
if oldest then first = tonumber(string.match(oldest[1], '^%d+')) end
if ARGV[3] == '' then return {epoch, first, last, {}} end
local start = tonumber(ARGV[4])
if ARGV[3] ~= epoch or start < first - 1 then
  start = first - 1
elseif start > last then
  start = last
end
return {epoch, first, last, redis.call('XRANGE', log, '(' .. start .. '-0', '+', 'COUNT', limit)}
"""
)
"""What comes after a place, and where the log begins and ends; the same judgement as Python's."""
