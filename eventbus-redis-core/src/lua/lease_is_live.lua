-- Returns true if a lease has not expired. One renewed in the future dates from before the clock was set back, and is
-- free.
local function is_live(ends, renewed, now)
  return tonumber(ends) > now and (tonumber(renewed) or 0) <= now
end

