//! Fuzz targets of everything that reads hostile bytes.
