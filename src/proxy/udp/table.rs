//! The flows of one worker, bounded. Pure: it holds what the shell gives it for each flow, and
//! says which one has to go.
//!
//! A flow is *proven* once its client has sent again after an answer came: who forges the
//! addresses of others cannot have seen it. When the table is full, a new flow takes the place of
//! the oldest one that is not proven; proven ones stay.
