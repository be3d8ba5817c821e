-- Claims pending entries of a group that have been idle for long: at most a number of entries, up to the entry that
-- reaches a number of bytes.
-- KEYS stream   ARGV group, consumer, idle time (ms), id to begin at, the most pending entries to scan, the most to
-- claim, the most bytes
-- Replies with {id to continue at, '-' at the end; the entries; the deliveries of each; ids of entries that were
-- deleted; the bytes of the entries}.
local stream, group, me, idle = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local page_len, most, most_bytes = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local deleted, refused = remove_gone(stream, group, me, ARGV[4], page_len)
if refused then return refused end
local entries, deliveries, bytes, next = {}, {}, 0, ARGV[4]
local pending = redis.call('XPENDING', stream, group, ARGV[4], '+', page_len)
local is_end = #pending < page_len
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
