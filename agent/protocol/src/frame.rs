//! Frames on the wire, their limits, and how two sides find each other in a byte stream.
