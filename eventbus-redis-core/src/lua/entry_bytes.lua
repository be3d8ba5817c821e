-- Returns the bytes of an entry: those of its id, names and values.
local function bytes_of(entry)
  local bytes = #entry[1]
  for _, text in ipairs(entry[2]) do bytes = bytes + #text end
  return bytes
end

