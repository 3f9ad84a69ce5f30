//! API types of the group epic.acnodal.io/v1 and their schemas.
