-- Gives a consumer entries of its group that are pending for long, whoever was given them: at most so many, and none after
-- the one with which they have so many bytes.
-- KEYS stream   ARGV group, consumer, idle time (ms), where to begin, how many pending entries to look at, how many to claim,
-- how many bytes
-- Replies with {where to go on, '-' at the end, entries, how often each was delivered, ids of entries that were deleted, the
-- bytes of the entries}.
local stream, group, me, idle = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local look_at, most, most_bytes = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
-- What is gone need not wait for its time: nothing is idle for so long, so this only removes it. It looks at ten times its count.
local NEVER = '9007199254740991'
local gone = redis.pcall('XAUTOCLAIM', stream, group, me, NEVER, ARGV[4], 'COUNT', math.ceil(look_at / 10), 'JUSTID')
if gone.err then return gone end
local entries, deliveries, deleted, bytes, next = {}, {}, gone[3] or {}, 0, ARGV[4]
local pending = redis.call('XPENDING', stream, group, ARGV[4], '+', look_at)
local is_end = #pending < look_at
for _, found in ipairs(pending) do
  if #entries >= most or bytes >= most_bytes then
    is_end = false
    break
  end
  local id = found[1]
  if found[3] >= idle then
    local entry = redis.call('XCLAIM', stream, group, me, 0, id)[1]
    if entry then
      entries[#entries + 1], deliveries[#deliveries + 1] = entry, found[4] + 1
      bytes = bytes + bytes_of(entry)
    else
      redis.call('XACK', stream, group, id)
      deleted[#deleted + 1] = id
    end
  end
  next = '(' .. id
end
return { is_end and '-' or next, entries, deliveries, deleted, bytes }
