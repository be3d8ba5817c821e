-- Returns the version of a snapshot of a stream with `length` events; nil if the text is none.
local function snapshot_version(text, length)
  if not text or not string.match(text, '^[1-9]%d*$') or #text > 15 then return nil end
  local version = tonumber(text)
  return version <= length and version or nil
end

