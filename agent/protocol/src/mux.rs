//! Many streams on one link: credits, stream table and the order of output, without I/O.
