-- Reads several streams as one. Needs entry_ids.lua and entry_bytes.lua.
--
-- Redis does not tell the size of an entry before it is read. So each read takes few: one entry of each stream first,
-- then twice as many each time, if that many of the largest size so far would fit. At most STEP entries of each stream
-- are read and not returned; these never leave the server.

local STEP = 16

-- Reads entries in the order of their ids with `command`, XRANGE or XREVRANGE: at most `count`, up to the entry that
-- reaches `most` bytes of ids, names and values. Returns them, and 1 if there are more.
local function read_page(command, streams, from, to, count, most)
  local entries, bytes, largest, heap = {}, 0, 0, {}

  local function is_first(one, other)
    local a, b = one.found[one.at][1], other.found[other.at][1]
    if command == 'XREVRANGE' then a, b = b, a end
    return is_before(a, b)
  end

  local function sift_down(at)
    while true do
      local first = at
      for child = 2 * at, 2 * at + 1 do
        if heap[child] and is_first(heap[child], heap[first]) then first = child end
      end
      if first == at then return end
      heap[at], heap[first] = heap[first], heap[at]
      at = first
    end
  end

  -- Returns true if the stream has an entry to continue with.
  local function go_on(stream)
    stream.at = stream.at + 1
    if stream.found[stream.at] then return true end
    if #stream.found < stream.step then return false end
    local fitting = largest == 0 and 1 or math.floor((most - bytes) / largest)
    stream.step = math.max(1, math.min(stream.step * 2, STEP, fitting, count - #entries))
    stream.found = redis.call(command, stream.key, stream.from, to, 'COUNT', stream.step)
    stream.at = 1
    if #stream.found == 0 then return false end
    stream.from = '(' .. stream.found[#stream.found][1]
    return true
  end

  for _, key in ipairs(streams) do
    local stream = { key = key, from = from, step = 0, found = {}, at = 0 }
    if go_on(stream) then heap[#heap + 1] = stream end
  end
  for at = math.floor(#heap / 2), 1, -1 do sift_down(at) end
  while heap[1] do
    local stream = heap[1]
    local entry = stream.found[stream.at]
    entries[#entries + 1] = entry
    local size = bytes_of(entry)
    bytes, largest = bytes + size, math.max(largest, size)
    if #entries >= count or bytes >= most then return entries, (heap[2] or go_on(stream)) and 1 or 0 end
    if not go_on(stream) then
      heap[1] = heap[#heap]
      heap[#heap] = nil
    end
    sift_down(1)
  end
  return entries, 0
end

