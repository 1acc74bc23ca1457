//! advertisement
