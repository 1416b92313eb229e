//! Entry points for fuzz targets; `corpus` replays them.
