-- Reads a page of a stream. Needs entry_bytes.lua.
--
-- Redis does not tell the size of an entry before it is read. So each read takes few: one entry first, then twice as many
-- each time, if that many of the largest size so far would fit. At most STEP entries are read and not returned; these never
-- leave the server.

local STEP = 16

-- Reads entries with `command`, XRANGE or XREVRANGE: at most `count`, up to the entry that reaches `most` bytes of ids, names
-- and values. Returns them, and 1 if there are more.
local function read_page(command, stream, from, to, count, most)
  local entries, bytes, largest, step = {}, 0, 0, 1
  while true do
    local found = redis.call(command, stream, from, to, 'COUNT', step)
    for at, entry in ipairs(found) do
      entries[#entries + 1] = entry
      local size = bytes_of(entry)
      bytes, largest = bytes + size, math.max(largest, size)
      if #entries >= count or bytes >= most then
        local is_last = #found < step
        local more = found[at + 1] or not is_last and redis.call(command, stream, '(' .. entry[1], to, 'COUNT', 1)[1]
        return entries, more and 1 or 0
      end
    end
    if #found < step then return entries, 0 end
    from = '(' .. found[#found][1]
    step = math.max(1, math.min(step * 2, STEP, math.floor((most - bytes) / largest), count - #entries))
  end
end
